# Table of contents: settings, rules by stage, targets.
# What to run: workflow_config.yaml and overlays in configs/. How to run it: profiles/.


configfile: "workflow_config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/base.smk"
include: "rules/prompts.smk"
include: "rules/mvdiffusion.smk"
include: "rules/evaluation.smk"
include: "rules/synthetic.smk"
include: "rules/gslrm.smk"
include: "rules/report.smk"


localrules:
    all,
    prompts,
    train,
    evaluate,
    synthetic,
    gslrm,
    report,
    join_synthetic,
    write_journal,
    report_exhausted,
    case_a,
    case_b,
    case_c,
    case_d,


# The whole pipeline: follow the decisions from the first experiment on.
rule all:
    default_target: True
    input:
        decided_files,


# One stage of the first experiment.
rule prompts:
    input:
        prompts_of(CONFIG.experiment)["embeds"],


rule train:
    input:
        checkpoint_of(CONFIG.experiment),


rule evaluate:
    input:
        decision_of(CONFIG.experiment),


rule synthetic:
    input:
        synthetic_of(CONFIG.experiment),


rule gslrm:
    input:
        gslrm_of(CONFIG.experiment).values(),


rule report:
    input:
        report_of(CONFIG.experiment),


# What each case runs, plannable without any evaluation: snakemake -n case_b
rule case_a:
    input:
        lambda w: case_files("A"),


rule case_b:
    input:
        lambda w: case_files("B"),


rule case_c:
    input:
        lambda w: case_files("C"),


rule case_d:
    input:
        lambda w: case_files("D"),

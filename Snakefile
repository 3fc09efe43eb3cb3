# Table of contents: settings, rules by stage, targets.
# What to run: workflow_config.yaml and overlays in configs/. How to run it: profiles/.
from snakemake.utils import min_version

min_version("9.27")


# That of the working directory; elsewhere (snakemake -s PATH -d OTHER) the one beside this file.
HERE = Path("workflow_config.yaml")


configfile: str(HERE if HERE.is_file() else Path(workflow.basedir, HERE))


report: "rules/captions/workflow.rst"


# Jobs that share the drawing of views, and the models of `reconstruct`; --set-scatter changes it, and nothing else.
scattergather:
    synthetic=1,
    reconstruct=1,


include: "rules/common.smk"


if CONFIG.container:

    container: CONFIG.container


include: "rules/data.smk"
include: "rules/base.smk"
include: "rules/prompts.smk"
include: "rules/mvdiffusion.smk"
include: "rules/evaluation.smk"
include: "rules/synthetic.smk"
include: "rules/gslrm.smk"
include: "rules/reconstruct.smk"
include: "rules/report.smk"


localrules:
    all,
    fetch_base,
    embed_prompts,
    decide,
    join_synthetic,
    render_report,
    write_journal,
    compare_experiments,
    report_exhausted,


# The whole pipeline: follow the decisions from the first experiment on.
rule all:
    default_target: True
    input:
        lambda w: PLAN.decided_files(decided_case),


# One stage of the first experiment (train) or of any (train_curriculum). `base` makes a new base of what was learned.
for target, files in PLAN.targets().items():

    rule:
        name:
            target
        input:
            lambda w, target=target, files=files: FORCED.collected(target, files),
        localrule: True


# What each case runs, plannable without any evaluation: snakemake -n case_b
for case in CASES:

    rule:
        name:
            f"case_{case.lower()}"
        input:
            lambda w, case=case: planned(case),
        localrule: True

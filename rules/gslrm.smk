# GS-LRM on the generated views: the 3D model.


rule finetune_gslrm:
    input:
        base=lambda w: base_of(experiment_of(w.experiment).base),
        real=lambda w: manifest_of(experiment_of(w.experiment).dataset),
        synthetic=f"{RESULTS}/experiments/{{experiment}}/synthetic/manifest.json",
    output:
        **{
            k: v.replace("EXPERIMENT", "{experiment}")
            for k, v in gslrm_of("EXPERIMENT").items()
        },
    log:
        f"{RESULTS}/logs/finetune_gslrm/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finetune_gslrm/{{experiment}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, attempt: 32000 * attempt,
        runtime=1440,
        gpu=0,
    params:
        decisive=lambda w: decisive(experiment_of(w.experiment).gslrm, GslrmFinetuning),
        settings=lambda w, input: settings(experiment_of(w.experiment).gslrm),
        wandb=lambda w, input: settings(CONFIG.wandb),
        run=lambda w, input: f"gslrm_{experiment_of(w.experiment).wandb_run}",
        state=lambda w: state_of(w.experiment, "gslrm"),
        out=f"{RESULTS}/experiments/{{experiment}}/gslrm",
    message:
        "Fine-tuning GS-LRM on the views of {wildcards.experiment}; state and log are in {params.state}."
    shell:
        "mvfl gslrm --settings {params.settings:q} --wandb {params.wandb:q} --run {params.run:q} --base {input.base:q}"
        " --real {input.real:q} --synthetic {input.synthetic:q} --state {params.state:q} --out {params.out:q}"
        " --minutes {resources.runtime} --threads {threads} --log {log:q}"

# Six generated views per sample, from the checkpoint that was judged.


rule generate_synthetic:
    input:
        manifest=lambda w: manifest_of(experiment_of(w.experiment).dataset),
        base=lambda w: base_of(experiment_of(w.experiment).base),
        checkpoint=lambda w: checkpoint_of(w.experiment),
        prompts=lambda w: prompts_of(
            w.experiment, evaluation_step(CONFIG, w.experiment)
        )["embeds"],
    output:
        manifest=f"{RESULTS}/experiments/{{experiment}}/synthetic/manifest.json",
    log:
        f"{RESULTS}/logs/generate_synthetic/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_synthetic/{{experiment}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=0,
    params:
        settings=lambda w: settings(experiment_of(w.experiment), Generation),
        out=f"{RESULTS}/experiments/{{experiment}}/synthetic",
    message:
        "Drawing six views per sample with {wildcards.experiment}."
    shell:
        "mvfl synthetic --settings {params.settings:q} --manifest {input.manifest:q} --base {input.base:q}"
        " --checkpoint {input.checkpoint:q} --prompts {input.prompts:q} --out {params.out:q}"
        " --threads {threads} --log {log:q}"

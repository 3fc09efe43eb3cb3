# Multi-view diffusion: latents are cached once, training is cut at the steps that matter.


rule cache_latents:
    input:
        unpack(ASKED.inputs("latents")),
    output:
        index=str(LAYOUT.latents("{latents}")),
    log:
        LAYOUT.log("cache_latents", "{latents}"),
    benchmark:
        LAYOUT.benchmark("cache_latents", "{latents}")
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=growing(16000, LAYOUT.log("cache_latents", "{latents}")),
        runtime=240,
        gpu=0,
    params:
        decisive=ASKED.decisive("latents"),
        job=ASKED.job("latents"),
    message:
        "Encoding all pictures once into latents ({wildcards.latents})."
    shell:
        "mvfl latents --job {params.job:q} --threads {threads} --log {log:q}"


rule train_mvdiffusion:
    input:
        unpack(ASKED.inputs("train")),
    output:
        **LAYOUT.checkpoint("{experiment}", "{step}").declared(),
    log:
        LAYOUT.log("train_mvdiffusion", "{experiment}-{step}"),
    benchmark:
        LAYOUT.benchmark("train_mvdiffusion", "{experiment}-{step}")
    conda:
        "../envs/cuda.yaml"
    threads: 8
    resources:
        mem_mb=growing(32000, LAYOUT.log("train_mvdiffusion", "{experiment}-{step}")),
        runtime=1440,
        gpu=0,
    params:
        decisive=ASKED.decisive("train"),
        job=ASKED.job("train"),
        state=str(LAYOUT.state("{experiment}", "mvdiffusion")),
        launch=lambda w, resources, threads: launch_prefix(resources, threads),
    message:
        "Training {wildcards.experiment} up to step {wildcards.step}; state and log are in {params.state}."
    shell:
        "{params.launch} mvfl train --job {params.job:q}"
        " --minutes {resources.runtime} --threads {threads} --log {log:q}"

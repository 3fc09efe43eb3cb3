# Multi-view diffusion: latents are cached once, training is cut at the steps that matter.


rule cache_latents:
    input:
        manifest=lambda w: manifest_of(experiment_of(LATENTS[w.latents]).dataset),
        base=lambda w: base_of(experiment_of(LATENTS[w.latents]).base),
    output:
        index=f"{RESULTS}/latents/{{latents}}/index.json",
    log:
        f"{RESULTS}/logs/cache_latents/{{latents}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cache_latents/{{latents}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 16000 * attempt,
        runtime=240,
        gpu=0,
    params:
        settings=lambda w: settings(
            experiment_of(LATENTS[w.latents]).augmentation,
            seed=experiment_of(LATENTS[w.latents]).training.seed,
        ),
        out=f"{RESULTS}/latents/{{latents}}",
    message:
        "Encoding all pictures once into latents ({wildcards.latents})."
    shell:
        "mvfl latents --settings {params.settings:q} --manifest {input.manifest:q} --base {input.base:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"


rule train_mvdiffusion:
    input:
        base=lambda w: base_of(experiment_of(w.experiment).base),
        latents=lambda w: f"{RESULTS}/latents/{latents_name(w.experiment)}/index.json",
        prompts=lambda w: prompts_of(w.experiment, w.step)["embeds"],
        start=segment_start,
    output:
        config=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/unet/config.json",
        weights=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/unet/diffusion_pytorch_model.safetensors",
        log=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/log.jsonl",
        record=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/provenance.json",
    log:
        f"{RESULTS}/logs/train_mvdiffusion/{{experiment}}-{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_mvdiffusion/{{experiment}}-{{step}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, attempt: 32000 * attempt,
        runtime=1440,
        gpu=0,
    params:
        decisive=lambda w: decisive(
            experiment_of(w.experiment), TrainingRun, "training"
        ),
        settings=lambda w, input: settings(experiment_of(w.experiment), TrainingRun),
        wandb=lambda w, input: settings(CONFIG.wandb),
        manifest=lambda w: manifest_of(experiment_of(w.experiment).dataset),
        state=lambda w: state_of(w.experiment, "mvdiffusion"),
        out=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}",
        launch=lambda w, resources, threads: launch_command(resources, threads),
        start=lambda w, input: f"--start '{input.start}'" if input.start else "",
    message:
        "Training {wildcards.experiment} up to step {wildcards.step}; state and log are in {params.state}."
    shell:
        "{params.launch} mvfl train --settings {params.settings:q} --wandb {params.wandb:q}"
        " --until-step {wildcards.step} --base {input.base:q} --manifest {params.manifest:q} --latents {input.latents:q}"
        " --prompts {input.prompts:q} {params.start} --state {params.state:q} --out {params.out:q}"
        " --minutes {resources.runtime} --threads {threads} --log {log:q}"

# The verdict. A checkpoint rule: what runs next depends on its decision.


checkpoint evaluate_checkpoint:
    input:
        manifest=lambda w: manifest_of(experiment_of(w.experiment).dataset),
        base=lambda w: base_of(experiment_of(w.experiment).base),
        checkpoint=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/provenance.json",
        log=f"{RESULTS}/experiments/{{experiment}}/mvdiffusion/checkpoint-{{step}}/log.jsonl",
        prompts=lambda w: prompts_of(w.experiment, w.step)["embeds"],
    output:
        decision=f"{RESULTS}/experiments/{{experiment}}/evaluation/step-{{step}}/decision.json",
        metrics=f"{RESULTS}/experiments/{{experiment}}/evaluation/step-{{step}}/metrics.json",
        views=f"{RESULTS}/experiments/{{experiment}}/evaluation/step-{{step}}/views.png",
        loss=f"{RESULTS}/experiments/{{experiment}}/evaluation/step-{{step}}/loss.png",
    log:
        f"{RESULTS}/logs/evaluate_checkpoint/{{experiment}}-{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_checkpoint/{{experiment}}-{{step}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 24000 * attempt,
        runtime=240,
        gpu=0,
    params:
        settings=lambda w: settings(experiment_of(w.experiment), Drawing),
        evaluation=settings(CONFIG.evaluation),
        override=lambda w: (
            f"--override {CONFIG.decisions[w.experiment]}"
            if w.experiment in CONFIG.decisions
            else ""
        ),
        out=f"{RESULTS}/experiments/{{experiment}}/evaluation/step-{{step}}",
    message:
        "Judging {wildcards.experiment} at step {wildcards.step}: metrics per slot, baselines, decision A-D."
    shell:
        "mvfl evaluate --name {wildcards.experiment} --settings {params.settings:q} --evaluation {params.evaluation:q}"
        " --step {wildcards.step} --manifest {input.manifest:q} --base {input.base:q} --checkpoint {input.checkpoint:q}"
        " --prompts {input.prompts:q} --train-log {input.log:q} {params.override}"
        " --out {params.out:q} --threads {threads} --log {log:q}"

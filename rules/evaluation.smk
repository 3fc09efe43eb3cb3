# The verdict. A checkpoint rule: what runs next depends on its decision.


checkpoint evaluate_checkpoint:
    input:
        unpack(inputs_of("evaluate")),
    output:
        **LAYOUT.verdict("{experiment}", "{step}").declared(),
    log:
        LAYOUT.log("evaluate_checkpoint", "{experiment}-{step}"),
    benchmark:
        LAYOUT.benchmark("evaluate_checkpoint", "{experiment}-{step}")
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 24000 * attempt,
        runtime=240,
        gpu=0,
    params:
        decisive=decisive("evaluate"),
        job=job_of("evaluate"),
    message:
        "Judging {wildcards.experiment} at step {wildcards.step}: metrics per slot, baselines, decision A-D."
    shell:
        "mvfl evaluate --job {params.job:q} --threads {threads} --log {log:q}"

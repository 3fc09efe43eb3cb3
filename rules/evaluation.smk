# The verdict: what was measured on a GPU, and the decision. A checkpoint: what runs next depends on it.


rule score_checkpoint:
    input:
        unpack(ASKED.inputs("score")),
    output:
        **shown(
            LAYOUT.verdict("{experiment}", "{step}").scored(),
            "{experiment}",
            views=("views", "sampled views"),
            loss=("loss", "training loss"),
        ),
    log:
        LAYOUT.log("score_checkpoint", "{experiment}-{step}"),
    benchmark:
        LAYOUT.benchmark("score_checkpoint", "{experiment}-{step}")
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=growing(
            lambda w: PLAN.scoring_megabytes(w.experiment),
            LAYOUT.log("score_checkpoint", "{experiment}-{step}"),
        ),
        runtime=240,
        gpu=0,
    params:
        decisive=ASKED.decisive("score"),
        job=ASKED.job("score"),
    message:
        "Measuring {wildcards.experiment} at step {wildcards.step}: metrics per slot, baselines."
    shell:
        "mvfl score --job {params.job:q} --threads {threads} --log {log:q}"


checkpoint decide:
    input:
        unpack(ASKED.inputs("decide")),
    output:
        decision=str(LAYOUT.verdict("{experiment}", "{step}").decision),
    log:
        LAYOUT.log("decide", "{experiment}-{step}"),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        decisive=ASKED.decisive("decide"),
        job=ASKED.job("decide"),
    message:
        "Deciding on {wildcards.experiment} at step {wildcards.step}: A, B, C or D."
    shell:
        "mvfl decide --job {params.job:q} --log {log:q}"

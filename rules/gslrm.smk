# GS-LRM: untrained on recorded views, and fine-tuned on generated or recorded ones.


rule judge_zero_shot:
    input:
        unpack(ASKED.inputs("zero_shot")),
    output:
        **shown(
            LAYOUT.zero_shot("{dataset}", "{base}").declared(),
            "{dataset}",
            page=("zero_shot", "3D without training"),
        ),
    log:
        LAYOUT.log("judge_zero_shot", "{dataset}-{base}"),
    conda:
        "../envs/cuda.yaml"
    threads: 4
    resources:
        mem_mb=growing(24000, LAYOUT.log("judge_zero_shot", "{dataset}-{base}")),
        runtime=60,
        gpu=0,
    params:
        decisive=ASKED.decisive("zero_shot"),
        job=ASKED.job("zero_shot"),
    message:
        "Judging the GS-LRM of base {wildcards.base} on recorded views of {wildcards.dataset}, untrained."
    shell:
        "mvfl zero-shot --job {params.job:q} --threads {threads} --log {log:q}"


rule finetune_gslrm:
    input:
        unpack(ASKED.inputs("gslrm")),
    output:
        **shown(
            LAYOUT.reconstruction("{experiment}").declared(),
            "{experiment}",
            turntable=("turntable", "3D model, turned"),
            renders=("renders", "3D from unseen cameras"),
        ),
    log:
        LAYOUT.log("finetune_gslrm", "{experiment}"),
    benchmark:
        LAYOUT.benchmark("finetune_gslrm", "{experiment}")
    conda:
        "../envs/cuda.yaml"
    threads: 8
    resources:
        mem_mb=growing(32000, LAYOUT.log("finetune_gslrm", "{experiment}")),
        runtime=1440,
        gpu=0,
    params:
        decisive=ASKED.decisive("gslrm"),
        job=ASKED.job("gslrm"),
        state=str(LAYOUT.state("{experiment}", "gslrm")),
        launch=lambda w, resources, threads: launch_prefix(resources, threads),
    message:
        "Fine-tuning GS-LRM on the views of {wildcards.experiment}; state and log are in {params.state}."
    shell:
        "{params.launch} mvfl gslrm --job {params.job:q}"
        " --minutes {resources.runtime} --threads {threads} --log {log:q}"

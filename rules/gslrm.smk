# GS-LRM on generated or recorded views: the 3D model.


rule finetune_gslrm:
    input:
        unpack(inputs_of("gslrm")),
    output:
        **LAYOUT.reconstruction("{experiment}").declared(),
    log:
        LAYOUT.log("finetune_gslrm", "{experiment}"),
    benchmark:
        LAYOUT.benchmark("finetune_gslrm", "{experiment}")
    conda:
        "../envs/cuda.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, attempt: 32000 * attempt,
        runtime=1440,
        gpu=0,
    params:
        decisive=decisive("gslrm"),
        job=job_of("gslrm"),
        state=str(LAYOUT.state("{experiment}", "gslrm")),
    message:
        "Fine-tuning GS-LRM on the views of {wildcards.experiment}; state and log are in {params.state}."
    shell:
        "mvfl gslrm --job {params.job:q} --minutes {resources.runtime} --threads {threads} --log {log:q}"

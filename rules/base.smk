# Pretrained pipelines that experiments start from, and new ones that are made of what an experiment learned.


# In Snakemake's own process: the nodes of a cluster need no network.
rule fetch_base:
    output:
        record=str(LAYOUT.fetched("{base}")),
    log:
        LAYOUT.log("fetch_base", "{base}"),
    wildcard_constraints:
        base=any_of(PLAN.hub_bases()),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        decisive=ASKED.decisive("fetch"),
        job=ASKED.job("fetch"),
    message:
        "Fetching the files of base {wildcards.base} from the model hub."
    shell:
        "mvfl base fetch --job {params.job:q} --log {log:q}"


rule prepare_base:
    input:
        unpack(ASKED.inputs("base")),
        weights=lambda w: user_files.weights_files(CONFIG.bases[w.base]),
    output:
        record=str(LAYOUT.base("{base}")),
    log:
        LAYOUT.log("prepare_base", "{base}"),
    benchmark:
        LAYOUT.benchmark("prepare_base", "{base}")
    conda:
        "../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        decisive=ASKED.decisive("base"),
        files=lambda w: user_files.weights_mark(CONFIG.bases[w.base]),
        job=ASKED.job("base"),
    message:
        "Checking base {wildcards.base}: every file is there and hashed."
    shell:
        "mvfl base prepare --job {params.job:q} --threads {threads} --log {log:q}"


rule export_base:
    input:
        unpack(ASKED.inputs("export")),
    output:
        card=str(LAYOUT.export("{experiment}")),
    log:
        LAYOUT.log("export_base", "{experiment}"),
    benchmark:
        LAYOUT.benchmark("export_base", "{experiment}")
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        decisive=ASKED.decisive("export"),
        job=ASKED.job("export"),
    message:
        "Making a base of what {wildcards.experiment} learned."
    shell:
        "mvfl base export --job {params.job:q} --log {log:q}"

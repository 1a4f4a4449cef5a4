# The front door. CI runs the same recipes through .ci/run.

# Install everything, from the lock file.
setup:
    uv sync --locked

# Lint, format and types.
check:
    uv run ruff check
    uv run ruff format --check
    uv run mypy

# All tests.
test *args:
    uv run pytest {{ args }}

# The tests of the Google ADK adapter, in an environment of their own.
google-adk *args:
    bash .ci/google-adk {{ args }}

# The recorder differential over more random programs: just differential 200000
differential programs="20000":
    SATCHEL_DIFFERENTIAL_PROGRAMS={{ programs }} uv run pytest tests/differential -q

# What a turn costs, beside its floor: just bench, just bench warm --quick; Linux
bench *args:
    uv run --group bench python -m benchmarks {{ args }}

# The wheel, installed in an empty environment and used.
wheel:
    bash .ci/wheel

# Generate the link's protobuf code after link.proto has changed.
proto:
    uv run --no-project --with grpcio-tools==1.76.0 python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src src/satchel/protocol/link.proto

# Hubs, workers and clients in simulated time, under faults: just sim 17, just sim --seeds 2000, just sim --mutants
sim *args:
    uv run python -m tests.simulation {{ args }}

# Give what takes bytes from outside bytes that nobody sends: just fuzz list, just fuzz image --seconds 300
fuzz *args:
    uv run --group fuzz python -m tests.fuzz {{ args }}

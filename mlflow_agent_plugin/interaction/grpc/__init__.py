"""The front end over gRPC, beside its HTTP.

    mlflow-agents serve support=models:/support@champion --keys keys.yaml --grpc-port 9000

`agents.proto` is the contract; `agents_pb2` and `agents_pb2_grpc` are generated from it:

    P=mlflow_agent_plugin/interaction/grpc/agents.proto
    python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. $P
"""

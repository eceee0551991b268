"""The Python worker of the MLX bridge: one loaded model that answers requests in one continuous batch."""

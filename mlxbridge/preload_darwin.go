package mlxbridge

func blasFolders() []string { return nil }

// withFastBLAS returns env as it is: on a Mac, MLX multiplies with Metal and Accelerate.
func withFastBLAS(env []string, _ []string) []string { return env }

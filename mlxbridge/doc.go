// Package mlxbridge is the Go side of the MLX bridge: it starts Python workers, one a loaded model, speaks the frame
// protocol with them, supervises them, and decides which models are in memory. It knows nothing of networks.
package mlxbridge

// Package reach brings an agent and its controller together: it dials every address at which the controller may be and
// takes the first that proves to be it, and where the agent may dial nobody, it has the controller call. A connection
// that it gives is TLS already, and the far end has shown a certificate of the cluster.
package reach

package wire

import (
	"net/http"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// StatusClientGone is what logs show for a client that went away; it is sent to nobody who still listens.
const StatusClientGone = 499

// Status is the HTTP status of a code, and when a client may try again: zero says nothing about that.
func Status(code cluster.Code) (status int, retryAfter time.Duration) {
	switch code {
	case cluster.CodeInvalid, cluster.CodeContext, cluster.CodeUnsupported:
		return http.StatusBadRequest, 0
	case cluster.CodeTooLarge:
		return http.StatusRequestEntityTooLarge, 0
	case cluster.CodeUnauthorized:
		return http.StatusUnauthorized, 0
	case cluster.CodeNoModel:
		return http.StatusNotFound, 0
	case cluster.CodeBadModel, cluster.CodeNoFit: // no retry helps, as clients would do after a 5xx
		return http.StatusUnprocessableEntity, 0
	case cluster.CodeConflict:
		return http.StatusConflict, 0
	case cluster.CodeBusy:
		return http.StatusTooManyRequests, time.Second
	case cluster.CodeNoNode, cluster.CodeQuarantined, cluster.CodeUnreachable:
		return http.StatusServiceUnavailable, 5 * time.Second
	case cluster.CodeNodeLost, cluster.CodeWorkerCrashed:
		return http.StatusBadGateway, time.Second
	case cluster.CodeTimeout:
		return http.StatusGatewayTimeout, 0
	case cluster.CodeCancelled:
		return StatusClientGone, 0
	default:
		return http.StatusInternalServerError, 0
	}
}

package openai

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// Dialect renders what belongs to no exchange. The zero value is ready to use.
type Dialect struct{}

// AppendError appends the body of an error.
func (Dialect) AppendError(dst []byte, e *cluster.Error) []byte {
	field, message := asAsked(e)
	if e.Hint != "" {
		message += "; " + e.Hint
	}
	kind, code := classify(e.Code)
	dst = append(dst, `{"error":{"message":`...)
	dst = wire.AppendString(dst, message)
	dst = append(dst, `,"type":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","param":`...)
	switch {
	case field != "":
		dst = wire.AppendString(dst, field)
	case e.Code == cluster.CodeNoModel, e.Code == cluster.CodeBadModel, e.Code == cluster.CodeNoFit:
		dst = append(dst, `"model"`...)
	default:
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"code":`...)
	dst = wire.AppendString(dst, code)
	return append(dst, "}}\n"...)
}

// asAsked returns the field and the message of an error in the words of a client of this dialect: what the worker calls
// otherwise has the client's name. A field that the client has sent under the worker's name keeps it.
func asAsked(e *cluster.Error) (field, message string) {
	if e.Message == e.Field+" "+useFormat {
		return e.Field, e.Message
	}
	for _, n := range []struct{ worker, client string }{{"grammar", formatField}, {"template_args", argsField}, {"inputs", "input"}} {
		if strings.HasPrefix(e.Field, n.worker) {
			return n.client, strings.Replace(e.Message, n.worker, n.client, 1)
		}
	}
	return e.Field, e.Message
}

// classify gives OpenAI's type, and OpenAI's code where it has one for the same thing.
func classify(c cluster.Code) (kind, code string) {
	const wrong, failed = "invalid_request_error", "server_error"
	switch c {
	case cluster.CodeUnauthorized:
		return wrong, "invalid_api_key"
	case cluster.CodeContext:
		return wrong, "context_length_exceeded"
	case cluster.CodeUnsupported:
		return wrong, "unsupported_value"
	case cluster.CodeInvalid, cluster.CodeTooLarge, cluster.CodeNoModel, cluster.CodeBadModel, cluster.CodeNoFit,
		cluster.CodeConflict, cluster.CodeCancelled:
		return wrong, string(c)
	case cluster.CodeBusy:
		return "rate_limit_error", string(c)
	case "":
		return failed, string(cluster.CodeInternal)
	default:
		return failed, string(c)
	}
}

// AppendModels appends the list of models.
func (d Dialect) AppendModels(dst []byte, models []cluster.Model) []byte {
	dst = append(dst, `{"object":"list","data":[`...)
	for i := range models {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendModel(dst, &models[i])
	}
	return append(dst, "]}\n"...)
}

// AppendModel appends one model.
func (Dialect) AppendModel(dst []byte, m *cluster.Model) []byte {
	return append(appendModel(dst, m), '\n')
}

// appendModel says 0 for the time of creation, which no model's folder tells, and adds the length of the context.
func appendModel(dst []byte, m *cluster.Model) []byte {
	owner := "mlxctl"
	if org, _, isRepo := strings.Cut(m.Name, "/"); isRepo && org != "" {
		owner = org
	}
	dst = append(dst, `{"id":`...)
	dst = wire.AppendString(dst, m.Name)
	dst = append(dst, `,"object":"model","created":0,"owned_by":`...)
	dst = wire.AppendString(dst, owner)
	dst = append(dst, `,"context_length":`...)
	dst = wire.AppendInt(dst, m.Context)
	return append(dst, '}')
}

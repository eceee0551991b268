package gateway

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// route is one path. http.ServeMux is not used: it redirects names of models with two slashes, and its own errors are
// in no dialect.
type route struct {
	dialect  dialect
	method   string // GET allows HEAD as well
	isPrefix bool   // the rest of the path, which is not empty, belongs to it too
	isOpen   bool   // needs no key
	do       func(v *visit)
}

func (r *route) allows(method string) bool {
	return method == r.method || r.method == http.MethodGet && method == http.MethodHead
}

func (r *route) allowed() string {
	if r.method == http.MethodGet {
		return "GET, HEAD"
	}
	return r.method
}

// visit is one HTTP request on its way.
type visit struct {
	g       *Gateway
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	dialect dialect
	id      string // of the request in the cluster, and in logs
	status  int    // sent; zero before
	rest    string // of the path of a prefix route
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	v := g.visit(w, r)
	v.route()
	g.o.Log.Debug("http request", "req", v.requestID(), "method", r.Method, "path", r.URL.Path,
		"status", v.status, "dur", time.Since(began))
}

func (g *Gateway) visit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{g: g, w: w, r: r, control: http.NewResponseController(w), dialect: openai.Dialect{}, id: rand.Text()[:16]}
	if r.Body != http.NoBody { // also of a body that nobody wants: the server reads it to get to the next request
		_ = v.control.SetReadDeadline(time.Now().Add(g.o.Times.Body))
	}
	w.Header().Set("X-Request-Id", v.requestID())
	w.Header().Set("X-Content-Type-Options", "nosniff")
	return v
}

func (v *visit) requestID() string { return "r-" + v.id }

func (v *visit) route() {
	route, known := v.find()
	if known {
		v.dialect = route.dialect
	}
	if !route.isOpen {
		if err := v.g.authorize(v.r); err != nil {
			v.fail(err)
			return
		}
	}
	switch {
	case !known:
		v.refuse(http.StatusNotFound, cluster.Errorf(cluster.CodeInvalid, "no such path: %s %s", v.r.Method, v.r.URL.Path))
	case !route.allows(v.r.Method):
		v.w.Header().Set("Allow", route.allowed())
		v.refuse(http.StatusMethodNotAllowed,
			cluster.Errorf(cluster.CodeInvalid, "%s does not allow %s, only %s", v.r.URL.Path, v.r.Method, route.allowed()))
	default:
		route.do(v)
	}
}

func (v *visit) find() (route, bool) {
	path := v.r.URL.Path
	if exact, ok := v.g.routes[path]; ok && !exact.isPrefix {
		return exact, true
	}
	for prefix, r := range v.g.routes {
		if rest, ok := strings.CutPrefix(path, prefix); ok && r.isPrefix && rest != "" {
			v.rest = rest
			return r, true
		}
	}
	return route{}, false
}

// fail answers with an error and its status.
func (v *visit) fail(err error) {
	e := v.blame(err)
	status, retry := wire.Status(e.Code)
	if retry > 0 {
		v.w.Header().Set("Retry-After", strconv.Itoa(int(retry/time.Second)))
	}
	if status == http.StatusUnauthorized {
		v.w.Header().Set("WWW-Authenticate", `Bearer realm="mlxctl"`)
	}
	v.refuse(status, e)
}

// blame finds the error that ended a request, and logs one that its client could not help.
func (v *visit) blame(err error) *cluster.Error {
	e := cluster.AsError(err)
	if e.Code == cluster.CodeCancelled { // by whom?
		if cause := cluster.AsError(context.Cause(v.r.Context())); cause != nil {
			e = cause
		}
		if e.Message == context.Canceled.Error() {
			e = cluster.Errorf(cluster.CodeCancelled, "the client closed its side of the connection, which ends its request")
		}
	}
	if status, _ := wire.Status(e.Code); status >= http.StatusInternalServerError {
		v.g.o.Log.Warn("request failed", "req", v.requestID(), "code", string(e.Code), "err", e)
	}
	return e
}

// refuse answers with an error under a status of its own.
func (v *visit) refuse(status int, e *cluster.Error) {
	v.reply(status, v.dialect.AppendError(nil, e))
}

// reply sends a whole body.
func (v *visit) reply(status int, body []byte) {
	h := v.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	v.status = status
	_ = v.control.SetWriteDeadline(time.Now().Add(v.g.o.Times.Write))
	v.w.WriteHeader(status)
	_, _ = v.w.Write(body) // a client that is gone needs no answer
}

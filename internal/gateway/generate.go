package gateway

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Headers that add to a body what its dialect has no field for.
const (
	sessionHeader = "X-Session-Id"
	timeoutHeader = "X-Request-Timeout" // seconds
)

// What is read of a body that is refused, at most.
const (
	drainBytes = 64 << 20
	drainTime  = 5 * time.Second
)

func (g *Gateway) generate(parse parser) func(v *visit) {
	return func(v *visit) {
		body, err := v.body()
		if err != nil {
			v.fail(err)
			return
		}
		a, err := parse(body)
		if err == nil {
			err = v.readHeaders(a.Request())
		}
		if err != nil {
			v.fail(err)
			return
		}
		a.Request().ID = cluster.RequestID(v.requestID())
		a.Begin(v.id, time.Now())
		if a.Streams() {
			v.stream(a)
		} else {
			v.whole(a)
		}
	}
}

// body reads the body of a request, whatever type the client says it has: JSON that is none is found later.
func (v *visit) body() ([]byte, error) {
	most := v.g.o.MaxBodyBytes
	tooLarge := cluster.Errorf(cluster.CodeTooLarge, "the body is larger than %d bytes, the limit of this gateway", most)
	if v.r.ContentLength > most {
		v.w.Header().Set("Connection", "close") // it may not be read to its end
		v.drain()
		return nil, tooLarge
	}
	if c := v.r.Header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
		return nil, cluster.Errorf(cluster.CodeUnsupported, "bodies with a Content-Encoding are not supported")
	}
	var all bytes.Buffer
	all.Grow(int(max(v.r.ContentLength, 0)) + bytes.MinRead)
	_, err := all.ReadFrom(http.MaxBytesReader(v.w, v.r.Body, most))
	var above *http.MaxBytesError
	var slow interface{ Timeout() bool }
	switch {
	case err == nil:
		return all.Bytes(), nil
	case errors.As(err, &above):
		v.drain()
		return nil, tooLarge
	case errors.As(err, &slow) && slow.Timeout():
		v.w.Header().Set("Connection", "close")
		return nil, cluster.Errorf(cluster.CodeInvalid, "the body did not arrive within %s", v.g.o.Times.Body)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, cluster.Errorf(cluster.CodeCancelled, "the body ended too early")
	default:
		return nil, cluster.Errorf(cluster.CodeInvalid, "the body cannot be read: %s", err)
	}
}

// drain reads on for a while in a body that is refused: many clients send all of it before they look at the answer, and
// of a connection that is closed meanwhile they see nothing but that.
func (v *visit) drain() {
	if v.r.Header.Get("Expect") != "" {
		return // this one asks before it sends
	}
	if v.control.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return // without a bound it is not read
	}
	_, _ = io.CopyN(io.Discard, v.r.Body, drainBytes)
}

func (v *visit) readHeaders(req *cluster.Request) error {
	if s := v.r.Header.Get(sessionHeader); s != "" {
		if len(s) > cluster.MaxSessionBytes {
			return cluster.Invalid(sessionHeader, "may be at most "+strconv.Itoa(cluster.MaxSessionBytes)+" bytes long")
		}
		req.Session = s
	}
	if s := v.r.Header.Get(timeoutHeader); s != "" {
		seconds, err := strconv.ParseFloat(s, 64)
		if err != nil || !(seconds > 0) || seconds > math.MaxInt32 {
			return cluster.Invalid(timeoutHeader, "must be a number of seconds above 0")
		}
		req.Timeout = max(time.Duration(seconds*float64(time.Second)), 1)
	}
	return nil
}

// whole answers when all is there.
func (v *visit) whole(a answer) {
	err := v.dispatch(v.r.Context(), a, func(choice int, c *cluster.Chunk) error {
		if c.Progress == nil {
			a.Collect(choice, c)
		}
		return nil
	})
	if err != nil {
		v.fail(err)
		return
	}
	v.reply(http.StatusOK, a.AppendWhole(nil))
}

func errUnfinished() error {
	return cluster.Errorf(cluster.CodeInternal, "the answer ended without its last part")
}

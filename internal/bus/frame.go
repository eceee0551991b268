package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// protocol is the version of what crosses the bus. It grows when an older side could not understand a newer one;
// fields that are new in a body do not make it grow.
const protocol = 1

// Kinds of frames.
const (
	kindMessage = "msg" // to whoever listens

	kindRequest = "req" // n: milliseconds that the asker waits, 0 for ever
	kindReply   = "rep"

	kindOpen   = "open"   // a stream. n: window; id
	kindStart  = "start"  // it was accepted
	kindRefuse = "refuse" // it was not, or a request failed; the body is a cluster.Error

	kindData  = "d"     // n: its number, from 1
	kindEnd   = "end"   // n as of data: the last one
	kindError = "err"   // n as of data: the last one; the body is a cluster.Error
	kindAlive = "alive" // n: number of the newest that was sent
	kindLost  = "lost"  // what was asked for is gone; the body is a cluster.Error

	kindAck    = "ack"    // n: all to there were read. Also a sign of life
	kindResume = "resume" // n: all from there are wanted again
	kindCancel = "cancel"
)

const (
	// maxHead is the most bytes of the line before a body; overhead is what a frame adds to a body at most.
	maxHead  = 160
	overhead = maxHead
	maxID    = 64
)

// frame is one message on the wire: a line "<protocol> <kind> <n>[ <id>]", then a body in JSON.
type frame struct {
	kind string
	n    uint64
	id   string
	body []byte
}

var errMalformed = errors.New("malformed message on the bus")

// encodeHead starts a frame whose body has about size bytes.
func encodeHead(kind string, n uint64, id string, size int) []byte {
	b := make([]byte, 0, len(kind)+len(id)+26+size)
	b = append(b, '0'+protocol, ' ')
	b = append(b, kind...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, n, 10)
	if id != "" {
		b = append(b, ' ')
		b = append(b, id...)
	}
	return append(b, '\n')
}

// encode makes a frame; a nil body is left out.
func encode(kind string, n uint64, id string, body any) ([]byte, error) {
	if body == nil {
		return encodeHead(kind, n, id, 0), nil
	}
	text, err := marshal(body)
	if err != nil {
		return nil, err
	}
	return append(encodeHead(kind, n, id, len(text)), text...), nil
}

// marshal makes JSON without the escapes that are for web pages: a prompt full of "<" must not grow sixfold.
func marshal(body any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, cluster.Errorf(cluster.CodeInternal, "encode message: %v", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decode reads a frame. The error is a *cluster.Error that says which side is older where the versions differ.
func decode(data []byte) (frame, error) {
	end := bytes.IndexByte(data[:min(len(data), maxHead)], '\n')
	if end < 0 {
		return frame{}, cluster.Errorf(cluster.CodeInvalid, "%v", errMalformed)
	}
	version, rest, _ := strings.Cut(string(data[:end]), " ")
	theirs, err := strconv.ParseUint(version, 10, 32)
	if err != nil {
		return frame{}, cluster.Errorf(cluster.CodeInvalid, "%v", errMalformed)
	}
	if theirs != protocol {
		return frame{}, versionError(theirs)
	}
	part := strings.Split(rest, " ")
	if len(part) < 2 || len(part) > 3 || part[0] == "" {
		return frame{}, cluster.Errorf(cluster.CodeInvalid, "%v", errMalformed)
	}
	f := frame{kind: part[0], body: data[end+1:]}
	if f.n, err = strconv.ParseUint(part[1], 10, 64); err != nil {
		return frame{}, cluster.Errorf(cluster.CodeInvalid, "%v", errMalformed)
	}
	if len(part) == 3 {
		if f.id = part[2]; !isID(f.id) {
			return frame{}, cluster.Errorf(cluster.CodeInvalid, "%v", errMalformed)
		}
	}
	return f, nil
}

func versionError(theirs uint64) *cluster.Error {
	older := "the other side"
	if theirs > protocol {
		older = "this side"
	}
	return cluster.Errorf(cluster.CodeUnsupported,
		"the other side speaks version %d of the bus protocol and this side version %d: %s is older", theirs, protocol, older).
		WithHint("install the same version of mlxctl on both")
}

// isID says whether s can stand for one stream in a subject.
func isID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for _, r := range []byte(s) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return false
		}
	}
	return true
}

// into decodes the body; a frame without one leaves out alone.
func (f frame) into(out any) error {
	if out == nil || len(f.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(f.body, out); err != nil {
		return cluster.Errorf(cluster.CodeInvalid, "read message from the bus: %v", err)
	}
	return nil
}

// failure is the error in the body of a frame that has one.
func (f frame) failure() *cluster.Error {
	var e cluster.Error
	if err := json.Unmarshal(f.body, &e); err != nil || e.Code == "" {
		return cluster.Errorf(cluster.CodeInternal, "the other side failed, and did not say how")
	}
	return &e
}

// tooLarge is the error of a message above the limit.
func tooLarge(size, limit int) *cluster.Error {
	return cluster.Errorf(cluster.CodeTooLarge, "the message has %d bytes; the bus takes at most %d", size, limit)
}

// nobody is the error of a subject that nobody listens to, in words of the cluster.
func nobody(subject string) *cluster.Error {
	switch part := strings.Split(subject, "."); {
	case len(part) > 3 && part[0] == "mlx" && part[1] == "cmd":
		e := cluster.Errorf(cluster.CodeUnreachable, "nobody answers as node %s: its agent is not connected", part[2])
		e.Node = cluster.NodeID(part[2])
		return e
	case len(part) > 2 && part[0] == "mlx" && part[1] == "api":
		return cluster.Errorf(cluster.CodeUnreachable, "nobody answers as the controller: none is connected to the bus").
			WithHint("`mlxctl up` starts one")
	default:
		return cluster.Errorf(cluster.CodeUnreachable, "nobody answers on %s", subject)
	}
}

// rootOf is the innermost error, which says what went wrong without the layers around it.
func rootOf(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

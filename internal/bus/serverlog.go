package bus

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/flood"
)

// serverLog writes the server's log where everything else goes.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // the first

	mu   sync.Mutex
	said map[string]time.Time // guarded by mu: refusals, by who was refused, and when that was last logged

	wrong flood.Complaints // what clients do
}

// misdeed splits what the server says of a client: its host, and what it did; numbers and names that follow vary.
var misdeed = regexp.MustCompile(`^(.*):\d+ - [a-z_]*id:\d+ - (?:"[^"]*" - )*([A-Za-z ]*)`)

const (
	// refusalEvery is how often the refusal of one client is worth a warning: a node whose key was revoked asks again several
	// times a second, for as long as its agent runs.
	refusalEvery = 10 * time.Minute
	mostRefusals = 256
)

// refusal splits what the server says of a client it does not let in: the host, and what follows the numbers of the
// connection, which are others each time.
var refusal = regexp.MustCompile(`^(.*):\d+ - [a-z_]*id:\d+ - .*?(authentication error.*)$`)

// isRepeated says that the same refusal was logged a short while ago.
func (l *serverLog) isRepeated(text string, now time.Time) bool {
	parts := refusal.FindStringSubmatch(text)
	if parts == nil {
		return false
	}
	key := parts[1] + " " + parts[2]
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.said[key]; ok && now.Sub(last) < refusalEvery {
		return true
	}
	if l.said == nil || len(l.said) >= mostRefusals {
		l.said = map[string]time.Time{} // some are said once more
	}
	l.said[key] = now
	return false
}

// handshakeFirst begins a warning that describes what is wanted here.
const handshakeFirst = "Clients that are not using \"TLS Handshake First\""

func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats", "notice", fmt.Sprintf(format, v...))
}

func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, handshakeFirst) {
		return
	}
	l.log.Warn("nats", "warning", fmt.Sprintf(format, v...))
}

// Errorf is what clients do wrong, more often than what goes wrong in the server.
func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if l.isRepeated(text, time.Now()) {
		l.log.Debug("nats", "err", text)
		return
	}
	what := text
	if parts := misdeed.FindStringSubmatch(text); parts != nil {
		what = parts[1] + " " + parts[2]
	}
	before, ok := l.wrong.Say(what, time.Now())
	switch {
	case !ok:
	case before > 0:
		l.log.Warn("nats", "err", text, "before", before)
	default:
		l.log.Warn("nats", "err", text)
	}
}

// Fatalf does not end the process: StartServer returns the message.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &text)
	l.log.Error("nats", "err", text)
}

func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}

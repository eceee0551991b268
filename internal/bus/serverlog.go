package bus

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// serverLog writes the server's log where everything else goes.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // the first
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
	l.log.Warn("nats", "err", fmt.Sprintf(format, v...))
}

// Fatalf does not end the process: StartServer returns the message.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &text)
	l.log.Error("nats", "err", text)
}

func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}

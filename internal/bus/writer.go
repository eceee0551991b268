package bus

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// ringBytes is how much of a stream may be under way or unread. One message is let through whatever its size. As the
// reader has not acknowledged what is in the ring, it is also what a reader can have again.
const ringBytes = 1 << 20

// StreamWriter is the sender's end of a stream. It is safe for concurrent use.
type StreamWriter struct {
	c      *Conn
	id     string
	reply  string
	window uint64
	cancel context.CancelCauseFunc // of the handler's context

	mu      sync.Mutex
	room    sync.Cond // on mu: there may be room, or failed is set
	ring    [][]byte  // guarded by mu, as is the rest: frames that are not acknowledged
	bytes   int       // in ring
	base    uint64    // number of ring[0]
	failed  error     // why nothing more is sent
	gone    bool      // the reader wants nothing more
	ended   bool      // the last frame is in the ring
	sent    time.Time // anything
	heard   time.Time // from the reader
	absent  time.Time // since when the server says that nobody reads; zero: it does not
	lingers bool      // guarded by mux.mu: counted there
}

func newWriter(c *Conn, id, reply string, window int, cancel context.CancelCauseFunc) *StreamWriter {
	now := time.Now()
	w := &StreamWriter{c: c, id: id, reply: reply, window: uint64(window), cancel: cancel, base: 1, sent: now, heard: now}
	w.room.L = &w.mu
	return w
}

// Send sends the next message. It waits while the reader is a window behind, and gives the reason when the reader
// cancelled, gave no sign of life for 10 s, or the server of the stream ends. While the connection is away it goes on
// until the window is full; what is lost is sent again. A message above the payload limit is refused with
// CodeTooLarge, and the stream goes on.
func (w *StreamWriter) Send(body any) error {
	text, err := marshal(body)
	if err != nil {
		return err
	}
	if e := w.c.fits(len(text) + overhead); e != nil {
		return e
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.failed == nil && !w.ended && !w.hasRoom(len(text)) {
		w.room.Wait()
	}
	switch {
	case w.failed != nil:
		return w.failed
	case w.ended:
		return cluster.Errorf(cluster.CodeInternal, "the stream has ended")
	}
	w.put(kindData, text)
	return nil
}

func (w *StreamWriter) hasRoom(size int) bool {
	return len(w.ring) == 0 || (uint64(len(w.ring)) < w.window && w.bytes+size <= ringBytes)
}

// put sends a numbered frame and keeps it. The lock is held while it is handed to the connection: frames go in order.
func (w *StreamWriter) put(kind string, text []byte) {
	data := append(encodeHead(kind, w.base+uint64(len(w.ring)), "", len(text)), text...)
	w.ring = append(w.ring, data)
	w.bytes += len(data)
	w.post(data)
}

// post hands a frame to the connection. What does not arrive is in the ring, and will be asked for.
func (w *StreamWriter) post(data []byte) {
	w.sent = time.Now()
	err := w.c.publish(w.reply, data)
	if err != nil && !errors.Is(err, &cluster.Error{Code: cluster.CodeUnreachable}) {
		w.stopLocked(err)
	}
}

// finish ends the stream with the handler's result. It says whether there is something left to look after.
func (w *StreamWriter) finish(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		w.forget()
		return false
	}
	if w.failed != nil && err != nil && !isTyped(err) {
		err = w.failed // the bare error of a context says less
	}
	kind, text := kindEnd, []byte(nil)
	if err != nil {
		kind = kindError
		text = w.describe(err)
	}
	w.put(kind, text)
	w.ended = true
	if w.failed == nil {
		w.failed = cluster.Errorf(cluster.CodeInternal, "the stream has ended")
	}
	w.room.Broadcast()
	return true
}

func (w *StreamWriter) describe(err error) []byte {
	text, encodeErr := json.Marshal(cluster.AsError(err))
	if encodeErr != nil || w.c.fits(len(text)+overhead) != nil {
		return []byte(`{"code":"internal","message":"the other side failed with an error that does not fit on the bus"}`)
	}
	return text
}

func isTyped(err error) bool {
	var known *cluster.Error
	return errors.As(err, &known)
}

// stopWith cancels the handler and has Send fail.
func (w *StreamWriter) stopWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopLocked(err)
}

func (w *StreamWriter) stopLocked(err error) {
	if w.failed == nil {
		w.failed = err
	}
	w.cancel(err)
	w.room.Broadcast()
}

// abandon is stopWith where the reader is gone: nothing more is sent to it, the end neither.
func (w *StreamWriter) abandon(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	w.forget()
	w.stopLocked(err)
}

func (w *StreamWriter) forget() {
	w.base += uint64(len(w.ring))
	w.ring, w.bytes = nil, 0
}

// isDone says whether nothing of it is left to look after.
func (w *StreamWriter) isDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone || (w.ended && len(w.ring) == 0)
}

// hear takes a word of the reader.
func (w *StreamWriter) hear(f frame) {
	switch f.kind {
	case kindCancel:
		w.abandon(cluster.Errorf(cluster.CodeCancelled, "the reader cancelled the stream"))
	case kindAck:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ack(f.n)
	case kindResume:
		w.resume(f.n)
	}
}

func (w *StreamWriter) ack(n uint64) {
	w.heard, w.absent = time.Now(), time.Time{}
	if n < w.base || n >= w.base+uint64(len(w.ring)) {
		return // old, or of nothing that was sent
	}
	read := int(n - w.base + 1)
	for i, data := range w.ring[:read] {
		w.bytes -= len(data)
		w.ring[i] = nil
	}
	w.ring, w.base = w.ring[read:], n+1
	w.room.Broadcast()
}

// resume sends again from n on.
func (w *StreamWriter) resume(n uint64) {
	w.mu.Lock()
	if w.gone {
		w.mu.Unlock()
		return
	}
	if n < w.base || n > w.base+uint64(len(w.ring)) {
		w.mu.Unlock()
		lost := cluster.Errorf(cluster.CodeNodeLost, "messages of the stream from number %d on are lost", n)
		w.c.sayLost(w.reply, lost)
		w.abandon(lost)
		return
	}
	defer w.mu.Unlock()
	w.ack(n - 1)
	for _, data := range w.ring {
		w.post(data)
	}
}

// nobodyReads takes the server's word that nobody listens.
func (w *StreamWriter) nobodyReads(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.absent.IsZero() {
		w.absent = now
	}
}

// pulse gives a sign of life where nothing was sent, and gives up where nobody reads.
func (w *StreamWriter) pulse(now time.Time, control string) {
	t := w.c.o.timing
	w.mu.Lock()
	silent, absent := now.Sub(w.heard), !w.absent.IsZero() && now.Sub(w.absent) >= t.absent
	ended, gone := w.ended, w.gone
	quiet := now.Sub(w.sent) >= t.alive
	w.mu.Unlock()
	switch {
	case gone:
	case ended && silent >= t.linger:
		w.abandon(cluster.Errorf(cluster.CodeCancelled, "the reader did not come back within %s", t.linger))
	case !ended && absent:
		w.abandon(cluster.Errorf(cluster.CodeCancelled, "the reader went away"))
	case !ended && silent >= t.silence:
		w.abandon(cluster.Errorf(cluster.CodeCancelled, "the reader gave no sign of life within %s", t.silence))
	case quiet:
		w.sign(control)
	}
}

// sign gives a sign of life. Where nobody reads it, the server says so on control.
func (w *StreamWriter) sign(control string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return
	}
	w.sent = time.Now()
	newest := w.base + uint64(len(w.ring)) - 1
	_ = w.c.send(w.reply, control+"."+w.id, encodeHead(kindAlive, newest, "", 0)) // the next one says the same
}

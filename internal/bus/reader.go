package bus

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	defaultWindow = 256
	maxWindow     = 4096
	defaultGap    = 10 * time.Second
	// spare is room beside the window for signs of life and the end.
	spare = 16
)

// StreamCall says what stream to open.
type StreamCall struct {
	// Subject is where the peer serves it, Reply where its messages come, and Control below which, with ID, it is told
	// what was read. The three belong together: see the subjects of a cluster.
	Subject string
	Reply   string
	Control string
	// ID is one token that nobody else uses, nor guesses.
	ID   string
	Body any
	// Window is how many messages may be under way or unread; zero means 256, and there are 4096 at most.
	Window int
	// Gap is how long the peer may give no sign of life, of which there is one a second; zero means 10 s.
	Gap time.Duration
}

// Stream is the reader's end. One goroutine at a time may call Next; Cancel and Close are safe at any time.
type Stream struct {
	c       *Conn
	call    StreamCall
	control string
	sub     *nats.Subscription
	in      chan *nats.Msg // buffered: the window and what else may come
	nudge   chan struct{}  // wakes Next after a reconnect. Buffered: one is enough
	stop    chan struct{}  // closed when err is set

	consumed, acked atomic.Uint64 // numbers of messages
	resync          atomic.Bool   // messages may be missing since a reconnect

	// What Next alone uses.
	next     uint64 // number of the message to come
	unsaid   int    // bytes that were read and not acknowledged
	isBehind bool   // messages are missing: ask when nothing more is here
	asked    uint64 // what was asked for again last
	askedAt  time.Time
	patience *time.Timer

	mu    sync.Mutex
	err   error     // guarded by mu: why nothing more comes
	ended bool      // guarded by mu: the sender knows
	said  time.Time // guarded by mu: the last sign of life
}

// OpenStream opens a stream and waits for the peer to accept it, or to refuse with its error. When ctx ends before, its
// cause is returned and the peer is told; after that, ctx means nothing to the stream. The error has CodeUnreachable
// when nobody serves the subject. Close has to be called.
func (c *Conn) OpenStream(ctx context.Context, call StreamCall) (*Stream, error) {
	if !isID(call.ID) {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the id of a stream must be 1 to %d letters, digits, - and _", maxID)
	}
	if call.Window <= 0 {
		call.Window = defaultWindow
	}
	call.Window = min(call.Window, maxWindow)
	if call.Gap <= 0 {
		call.Gap = defaultGap
	}
	data, err := encode(kindOpen, uint64(call.Window), call.ID, call.Body)
	if err != nil {
		return nil, err
	}
	if !c.up.Load() {
		return nil, c.notConnected()
	}
	if err := c.fits(len(data)); err != nil {
		return nil, err
	}
	s := &Stream{
		c: c, call: call, control: call.Control + "." + call.ID, next: 1,
		in: make(chan *nats.Msg, call.Window+spare), nudge: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	k, err := c.begin(call.Subject, call.Reply)
	if err != nil {
		return nil, err
	}
	defer c.end(k)
	if s.sub, err = c.nats.ChanSubscribe(call.Reply, s.in); err != nil {
		return nil, c.sendError(err, 0)
	}
	if err := c.send(call.Subject, call.Reply, data); err != nil {
		s.release()
		return nil, err
	}
	if err := s.accepted(ctx, k); err != nil {
		return nil, err
	}
	return s, nil
}

// accepted waits for the first word of the peer. On an error, nothing is left of the stream.
func (s *Stream) accepted(ctx context.Context, k *call) error {
	var err error
	select {
	case m := <-s.in:
		if err = s.first(m); err == nil {
			return s.c.adopt(s)
		}
		s.release()
		return err
	case e := <-k.failed:
		err = e
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.cancelSender()
	s.release()
	return err
}

func (s *Stream) first(m *nats.Msg) error {
	if isNobody(m) {
		return nobody(s.call.Subject)
	}
	f, err := decode(m.Data)
	switch {
	case err != nil:
		s.cancelSender()
		return err
	case f.kind == kindRefuse:
		return f.failure()
	}
	if f.kind != kindStart {
		s.resync.Store(true) // the start was lost, and maybe more
	}
	s.patience = time.NewTimer(s.call.Gap)
	return nil
}

// adopt has the connection look after the stream.
func (c *Conn) adopt(s *Stream) error {
	c.mu.Lock()
	closing := c.closing
	if !closing {
		c.readers[s] = struct{}{}
	}
	c.mu.Unlock()
	if closing {
		return s.stopWith(errClosed())
	}
	poke(c.stir)
	return nil
}

// Next decodes the next message into out. After the last one it gives io.EOF, or the *cluster.Error that ended the
// stream at its sender; CodeNodeLost means that the sender gave no sign of life, or that messages are lost for good.
// When ctx ends, its cause is returned, and the stream goes on. Errors other than that one come again.
func (s *Stream) Next(ctx context.Context, out any) error {
	s.patience.Reset(s.call.Gap)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m, err := s.take(ctx)
		if err != nil {
			return err
		}
		f, err := decode(m.Data)
		if isNobody(m) {
			s.asked = 0 // the sender is away and heard no question; it may come back within the gap
			continue
		}
		if err != nil {
			return s.stopWith(err)
		}
		s.patience.Reset(s.call.Gap) // a sign of life, as the server's word that nobody is there is not
		switch f.kind {
		case kindData, kindEnd, kindError:
			if f.n == s.next {
				return s.consume(f, out)
			}
			s.isBehind = s.isBehind || f.n > s.next
		case kindAlive:
			s.isBehind = s.isBehind || f.n >= s.next
		case kindLost, kindRefuse:
			return s.stopWith(f.failure())
		}
	}
}

// take waits for a message.
func (s *Stream) take(ctx context.Context) (*nats.Msg, error) {
	select {
	case <-s.stop:
		return nil, s.reason()
	default:
	}
	select {
	case m := <-s.in:
		return m, nil
	default:
	}
	for {
		if s.resync.Swap(false) {
			s.asked, s.isBehind = 0, true
		}
		if s.isBehind {
			s.isBehind = false
			s.askAgain()
		}
		select {
		case m := <-s.in:
			return m, nil
		case <-s.nudge:
		case <-s.stop:
			return nil, s.reason()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.patience.C:
			return nil, s.stopWith(cluster.Errorf(cluster.CodeNodeLost, "the other side gave no sign of life within %s", s.call.Gap))
		}
	}
}

// askAgain has the sender send again from the next message on; not twice for the same one within a while.
func (s *Stream) askAgain() {
	now := time.Now()
	if s.asked == s.next && now.Sub(s.askedAt) < s.c.o.timing.again {
		return
	}
	s.asked, s.askedAt = s.next, now
	_ = s.tell(kindResume, s.next) // without a connection, it is asked again after the next connect
}

func (s *Stream) consume(f frame, out any) error {
	s.next++
	s.consumed.Store(f.n)
	switch f.kind {
	case kindEnd, kindError:
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.ack(f.n)
		if f.kind == kindError {
			return s.stopWith(f.failure())
		}
		return s.stopWith(io.EOF)
	}
	s.unsaid += len(f.body)
	if f.n-s.acked.Load() >= uint64(max(1, s.call.Window/4)) || s.unsaid >= ringBytes/4 {
		s.unsaid = 0
		s.ack(f.n)
	}
	if err := f.into(out); err != nil {
		return s.stopWith(err)
	}
	return nil
}

func (s *Stream) ack(n uint64) {
	s.acked.Store(n)
	_ = s.tell(kindAck, n) // a later one says the same
}

// tell sends a word to the sender.
func (s *Stream) tell(kind string, n uint64) error {
	s.mu.Lock()
	s.said = time.Now()
	s.mu.Unlock()
	return s.c.send(s.control, s.call.Reply, encodeHead(kind, n, "", 0))
}

// pulse gives a sign of life, and acknowledges what was read.
func (s *Stream) pulse(now time.Time) {
	s.mu.Lock()
	said := s.said
	s.mu.Unlock()
	if n := s.consumed.Load(); n > s.acked.Load() || now.Sub(said) >= s.c.o.timing.reader {
		s.ack(n)
	}
}

// reconnected has Next ask for what may be lost.
func (s *Stream) reconnected() {
	s.resync.Store(true)
	poke(s.nudge)
}

// Cancel tells the peer to stop, at once; Next then gives CodeCancelled. After the end it does nothing.
func (s *Stream) Cancel() {
	_ = s.stopWith(cluster.Errorf(cluster.CodeCancelled, "the stream was cancelled")) // the caller knows
}

// Close releases the stream, and cancels it if it has not ended.
func (s *Stream) Close() error {
	s.Cancel()
	return nil
}

func (s *Stream) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// stopWith ends the stream here, and returns why it ended: for the first reason.
func (s *Stream) stopWith(err error) error {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	s.err = err
	close(s.stop)
	ended := s.ended
	s.mu.Unlock()
	if !ended {
		s.cancelSender()
	}
	s.c.mu.Lock()
	delete(s.c.readers, s)
	s.c.mu.Unlock()
	s.release()
	return err
}

// cancelSender has the sender stop; when there is no connection, after the next connect.
func (s *Stream) cancelSender() {
	if err := s.tell(kindCancel, 0); errors.Is(err, &cluster.Error{Code: cluster.CodeUnreachable}) {
		s.c.owe(order{s.control, s.call.Reply, encodeHead(kindCancel, 0, "", 0)})
	}
}

func (s *Stream) release() { _ = s.sub.Unsubscribe() } // that fails only where there is nothing left to end

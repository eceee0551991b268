package bus

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// maxRequests is how many requests one Handle answers at once.
	maxRequests = 256
	// What waits for one subscription's handler: messages, and their bytes.
	maxWaiting      = 16384
	maxWaitingBytes = 64 << 20
	// settle bounds the wait for the server to know of a new subscription.
	settle = 2 * time.Second
)

// Subscription is something that listens.
type Subscription struct {
	once   sync.Once
	stop   func()
	finish func(context.Context) // of streams
}

// Close ends it and waits for its handlers, whose contexts are cancelled. It must not be called from one of them.
func (s *Subscription) Close() error {
	s.once.Do(s.stop)
	return nil
}

// Finish takes no more streams, and returns when those under way have ended and their readers have read all, or when ctx
// ends. More are refused as by Close, which is still to be called.
func (s *Subscription) Finish(ctx context.Context) {
	if s.finish != nil {
		s.finish(ctx)
	}
}

// track makes a Subscription that Close of the connection closes too.
func (c *Conn) track(stop func()) (*Subscription, error) {
	s := &Subscription{}
	s.stop = func() {
		stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subs, s)
	}
	c.mu.Lock()
	closing := c.closing
	if !closing {
		c.subs[s] = struct{}{}
	}
	c.mu.Unlock()
	if closing {
		stop()
		return nil, errClosed()
	}
	return s, nil
}

// Publish sends a message to whoever listens. Without a connection it is not sent, nor later: the error then has
// CodeUnreachable.
func (c *Conn) Publish(subject string, body any) error {
	data, err := encode(kindMessage, 0, "", body)
	if err != nil {
		return err
	}
	if err := c.fits(len(data)); err != nil {
		return err
	}
	return c.publish(subject, data)
}

// Subscribe listens to messages. h is called for one after another, in the order in which each sender sent them.
func (c *Conn) Subscribe(subject string, h func(subject string, decode func(any) error)) (*Subscription, error) {
	stop, err := c.listen(subject, func(m *nats.Msg) {
		h(m.Subject, func(out any) error {
			f, err := decode(m.Data)
			if err != nil {
				return err
			}
			return f.into(out)
		})
	})
	if err != nil {
		return nil, err
	}
	return c.track(stop)
}

// listen calls f for each message, and not any more when stop has returned.
func (c *Conn) listen(subject string, f func(*nats.Msg)) (stop func(), err error) {
	var mu sync.Mutex // held by f
	stopped := false  // guarded by mu
	sub, err := c.nats.Subscribe(subject, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			f(m)
		}
	})
	if err != nil {
		return nil, c.sendError(err, 0)
	}
	if err := sub.SetPendingLimits(maxWaiting, maxWaitingBytes); err != nil {
		return nil, c.sendError(err, 0)
	}
	c.settle()
	return func() {
		_ = sub.Unsubscribe() // that fails only where there is nothing left to end
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}, nil
}

// settle waits until the server knows of new subscriptions. Without a server, it learns of them when it is there.
func (c *Conn) settle() {
	if c.up.Load() {
		_ = c.nats.FlushTimeout(settle) // then the connection is on its way out
	}
}

// Request asks and waits for one reply; out may be nil. An error of who answers is returned as it was there. The error
// has CodeUnreachable when nobody answers on the subject or the connection is lost, and CodeTooLarge when in has too
// many bytes. When ctx ends, its cause is returned; without an end, Request waits as long as the connection lasts.
func (c *Conn) Request(ctx context.Context, subject string, in, out any) error {
	data, err := encode(kindRequest, patience(ctx), "", in)
	if err != nil {
		return err
	}
	if !c.up.Load() {
		return c.notConnected()
	}
	if err := c.fits(len(data)); err != nil {
		return err
	}
	inbox := replyPrefix(subject, c.o.InboxPrefix) + "." + nuid.Next()
	k, err := c.begin(subject, inbox)
	if err != nil {
		return err
	}
	defer c.end(k)
	replies := make(chan *nats.Msg, 1) // nats drops what does not fit
	sub, err := c.nats.ChanSubscribe(inbox, replies)
	if err != nil {
		return c.sendError(err, 0)
	}
	defer func() { _ = sub.Unsubscribe() }() // that fails only where there is nothing left to end
	if err := c.send(subject, inbox, data); err != nil {
		return err
	}
	select {
	case m := <-replies:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return readReply(m, subject, out)
	case e := <-k.failed:
		return e
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func readReply(m *nats.Msg, subject string, out any) error {
	if isNobody(m) {
		return nobody(subject)
	}
	f, err := decode(m.Data)
	switch {
	case err != nil:
		return err
	case f.kind == kindReply:
		return f.into(out)
	case f.kind == kindRefuse:
		return f.failure()
	}
	return cluster.Errorf(cluster.CodeInternal, "the answer on %s is no reply but %q", subject, f.kind)
}

// isNobody says whether the server answers instead of somebody, because there is nobody.
func isNobody(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get("Status") == "503"
}

// graceMS is how many milliseconds longer who is asked goes on: who asks should see its own end first.
const graceMS = 100

// patience is how many milliseconds are left to who is asked; zero means no end.
func patience(ctx context.Context) uint64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return uint64(max(0, time.Until(deadline).Milliseconds()) + graceMS)
}

// Handle answers requests: with what h returns, or with its error. Calls run at the same time, up to 256; more are
// refused with CodeBusy. ctx ends with the asker's patience, and with Close. When h panics, the asker gets
// CodeInternal, and the log the stack.
func (c *Conn) Handle(subject string, h func(ctx context.Context, subject string, decode func(any) error) (any, error)) (*Subscription, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	var calls sync.WaitGroup
	slots := make(chan struct{}, maxRequests) // holds a token for each call
	stop, err := c.listen(subject, func(m *nats.Msg) {
		if !mayReply(m.Subject, m.Reply) {
			c.o.Log.Warn("bus request wants its reply where it may not be", "subject", m.Subject, "reply", m.Reply)
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			c.refuse(m.Reply, cluster.Errorf(cluster.CodeBusy, "%d requests at once are too many", maxRequests+1))
			return
		}
		calls.Go(func() {
			defer func() { <-slots }()
			c.answer(ctx, m, h)
		})
	})
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return c.track(func() {
		stop()
		cancel(errLeaving())
		calls.Wait()
	})
}

// errLeaving is why handlers are cancelled.
func errLeaving() *cluster.Error {
	return cluster.Errorf(cluster.CodeUnreachable, "the other side is shutting down").WithHint("try again in a moment")
}

func (c *Conn) answer(ctx context.Context, m *nats.Msg, h func(context.Context, string, func(any) error) (any, error)) {
	f, err := decode(m.Data)
	if err == nil && f.kind != kindRequest {
		err = cluster.Errorf(cluster.CodeInvalid, "this subject answers requests, not %q", f.kind)
	}
	if err != nil {
		c.refuse(m.Reply, err)
		return
	}
	if f.n > 0 && f.n < uint64(time.Duration(1<<62)/time.Millisecond) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(f.n)*time.Millisecond)
		defer cancel()
	}
	var body any
	err = c.guarded(m.Subject, func() (err error) {
		body, err = h(ctx, m.Subject, f.into)
		return err
	})
	var data []byte
	if err == nil {
		data, err = encode(kindReply, 0, "", body)
	}
	if err == nil {
		if e := c.fits(len(data)); e != nil {
			err = e
		}
	}
	if err != nil {
		c.refuse(m.Reply, causeOf(ctx, err))
		return
	}
	if err := c.publish(m.Reply, data); err != nil {
		c.o.Log.Warn("bus could not reply", "subject", m.Subject, "err", err)
	}
}

// refuse answers with an error.
func (c *Conn) refuse(reply string, err error) {
	data, encodeErr := encode(kindRefuse, 0, "", cluster.AsError(err))
	if encodeErr == nil {
		encodeErr = c.publish(reply, data)
	}
	if encodeErr != nil {
		c.o.Log.Warn("bus could not reply", "reply", reply, "err", encodeErr)
	}
}

// guarded turns a panic into an error: one bad request must not end what answers all others.
func (c *Conn) guarded(subject string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.o.Log.Error("handler panicked", "subject", subject, "err", r, "stack", string(debug.Stack()))
			err = cluster.Errorf(cluster.CodeInternal, "the handler of %s failed; its log says how", subject)
		}
	}()
	return f()
}

// causeOf gives a bare error of a context its cause.
func causeOf(ctx context.Context, err error) error {
	var known *cluster.Error
	if errors.As(err, &known) || ctx.Err() == nil {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

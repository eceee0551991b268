package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	keepaliveEvery = 10 * time.Second
	keepaliveWait  = 15 * time.Second
	mostHops       = 8
)

// patience ends a handshake that takes too long, but does not count the time that the operator needs for an answer.
type patience struct {
	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	over  atomic.Bool
	most  time.Duration
}

func newPatience(most time.Duration, end func()) *patience {
	p := &patience{most: most}
	p.timer = time.AfterFunc(most, func() { p.over.Store(true); end() })
	return p
}

// pause stops the clock until the returned function starts it anew.
func (p *patience) pause() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer.Reset(p.most)
	}
}

func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
}

// sshAuthError is a host that was offered everything we have and let us not in.
type sshAuthError struct {
	user, offered string
	err           error
}

func (e *sshAuthError) Error() string {
	return fmt.Sprintf("%s was not let in, with %s", e.user, e.offered)
}
func (e *sshAuthError) Unwrap() error { return e.err }

// hopError is a jump host that could not be used.
type hopError struct {
	hop string
	err error
}

func (e *hopError) Error() string { return "jump host " + e.hop + ": " + e.err.Error() }
func (e *hopError) Unwrap() error { return e.err }

// dialer opens a connection to an address, directly or through a jump host.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialLibrary connects and authenticates in this process.
func (b *Bootstrap) dialLibrary(ctx context.Context, set *settings, depth int) (*libSession, HostKey, error) {
	if set.command != "" {
		return nil, HostKey{}, errProxyCommand
	}
	s := &libSession{set: set}
	dial := dialer((&net.Dialer{Timeout: b.o.Contact}).DialContext)
	if set.jump != "" {
		hop, err := b.dialHops(ctx, set, depth)
		if err != nil {
			return nil, HostKey{}, err
		}
		s.via, dial = hop, hop.client.DialContext
	}
	key, err := s.connect(ctx, b, dial)
	if err != nil {
		s.Close()
		return nil, key, err
	}
	s.run.Go(s.keepalive)
	return s, key, nil
}

// errProxyCommand is what this transport leaves to ssh.
var errProxyCommand = errors.New("ssh_config has a ProxyCommand")

// dialHops connects to the last of the jump hosts of a host, through those before it.
func (b *Bootstrap) dialHops(ctx context.Context, set *settings, depth int) (*libSession, error) {
	if depth >= mostHops {
		return nil, &hopError{hop: set.jump, err: errors.New("jump hosts lead in a circle")}
	}
	before, last := "", set.jump
	if i := strings.LastIndexByte(set.jump, ','); i >= 0 {
		before, last = set.jump[:i], strings.TrimSpace(set.jump[i+1:])
	}
	t, err := ParseTarget(last, "ssh_config")
	if err != nil {
		return nil, err
	}
	hopSet, err := b.resolve(&t)
	if err != nil {
		return nil, err
	}
	if before != "" {
		hopSet.jump = before
	}
	hop, _, err := b.dialLibrary(ctx, hopSet, depth+1)
	if err != nil {
		return nil, &hopError{hop: last, err: err}
	}
	return hop, nil
}

// connect tries every address of the host at once and speaks with the first that answers.
func (s *libSession) connect(ctx context.Context, b *Bootstrap, dial dialer) (HostKey, error) {
	db := b.known.database(s.set.knownFiles)
	for widen := false; ; widen = true {
		conn, address, err := race(ctx, dial, s.set.candidates(), b.o.Contact)
		if err != nil {
			return HostKey{}, err
		}
		s.address = address
		if s.via == nil && isSelf(conn) {
			_ = conn.Close()
			return HostKey{}, errSelf
		}
		var algos []string
		if !widen {
			algos = algorithms(db, s.set)
		}
		key, err := s.handshake(ctx, b, conn, algos, func(key ssh.PublicKey) (HostKey, error) { return check(db, s.set, key) })
		// A host that has none of the known kinds of keys any more has changed; to say so, its key must be seen.
		if _, none := errors.AsType[*ssh.AlgorithmNegotiationError](err); none && len(algos) > 0 {
			continue
		}
		return key, err
	}
}

// errSelf is a target that is the machine that this runs on.
var errSelf = errors.New("this machine itself")

// isSelf says whether a connection to the usual port has both its ends on this machine. Loopback is left out: a tunnel may
// begin there.
func isSelf(conn net.Conn) bool {
	near, ok := conn.LocalAddr().(*net.TCPAddr)
	far, also := conn.RemoteAddr().(*net.TCPAddr)
	return ok && also && far.Port == sshPort && !far.IP.IsLoopback() && near.IP.Equal(far.IP)
}

// race dials all addresses at once. The first connection wins, the others are closed.
func race(ctx context.Context, dial dialer, addresses []string, most time.Duration) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	type result struct {
		conn    net.Conn
		address string
		err     error
	}
	results := make(chan result, len(addresses))
	for _, a := range addresses {
		go func() {
			conn, err := dial(ctx, "tcp", a)
			results <- result{conn, a, err}
		}()
	}
	var won result
	var failed error
	for range addresses {
		r := <-results
		switch {
		case r.err != nil:
			failed = tellingError(failed, r.err)
		case won.conn == nil:
			won = r
			cancel()
		default:
			_ = r.conn.Close()
		}
	}
	if won.conn == nil {
		return nil, "", failed
	}
	return won.conn, won.address, nil
}

// tellingError returns the error that says more about the host: one of its own refusals rather than one of a name that
// nobody knows.
func tellingError(a, b error) error {
	if a == nil || reachOf(b) < reachOf(a) {
		return b
	}
	return a
}

// handshake does everything between a connection and a client. Nothing is authenticated before the key is known.
func (s *libSession) handshake(ctx context.Context, b *Bootstrap, conn net.Conn, algos []string,
	check func(ssh.PublicKey) (HostKey, error),
) (key HostKey, err error) {
	end := func() { _ = conn.Close() }
	defer context.AfterFunc(ctx, end)()
	wait := newPatience(b.o.Contact, end)
	defer wait.stop()
	offer := &credentials{b: b, set: s.set, ctx: ctx, wait: wait}
	verified := false
	config := &ssh.ClientConfig{
		User: s.set.user, Auth: offer.methods(), HostKeyAlgorithms: algos,
		HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
			var err error
			key, err = check(shown)
			if verified = err == nil; verified && s.onlyLook {
				return errSeen
			}
			return err
		},
	}
	c, chans, requests, err := ssh.NewClientConn(conn, s.address, config)
	offer.Close()
	if err == nil {
		s.client = ssh.NewClient(c, chans, requests)
		s.done = make(chan struct{})
		return key, nil
	}
	_ = conn.Close()
	switch {
	case ctx.Err() != nil:
		return key, ctx.Err()
	case s.onlyLook && verified:
		return key, nil
	case wait.over.Load():
		return key, os.ErrDeadlineExceeded
	case verified && (strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "disconnect")):
		return key, &sshAuthError{user: s.set.user, offered: offer.offered(), err: err}
	}
	return key, err
}

// libSession is a connection of this process.
type libSession struct {
	set     *settings
	via     *libSession // jump host
	address string      // that answered
	// onlyLook ends the handshake as soon as the host's key has been seen.
	onlyLook bool
	client   *ssh.Client
	done     chan struct{} // closed by Close; nil before the handshake
	close    sync.Once
	run      sync.WaitGroup
	dead     atomic.Bool
}

func (s *libSession) Alive() bool { return !s.dead.Load() }

// keepalive notices a host that went away without a word, and ends the connection.
func (s *libSession) keepalive() {
	tick := time.NewTicker(keepaliveEvery)
	defer tick.Stop()
	ended := make(chan struct{})
	s.run.Go(func() { _ = s.client.Wait(); s.dead.Store(true); close(ended) })
	for {
		select {
		case <-s.done:
			return
		case <-ended:
			return
		case <-tick.C:
		}
		late := time.AfterFunc(keepaliveWait, func() { _ = s.client.Close() })
		_, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			_ = s.client.Close()
			return
		}
	}
}

// Close ends the connection, and then that to the jump host.
func (s *libSession) Close() {
	s.close.Do(func() {
		if s.client != nil {
			s.dead.Store(true)
			close(s.done)
			_ = s.client.Close()
		}
		s.run.Wait()
		if s.via != nil {
			s.via.Close()
		}
	})
}

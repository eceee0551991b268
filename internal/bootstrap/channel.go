package bootstrap

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const killWait = 2 * time.Second // for a host to agree that a script is over

// channel is one script that runs over a connection.
type channel struct {
	*ssh.Session
	client *ssh.Client

	mu   sync.Mutex
	late *time.Timer // guarded by mu
	over bool        // guarded by mu
}

func (s *libSession) channel() (*channel, error) {
	c, err := s.client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return &channel{Session: c, client: s.client}, nil
}

// kill ends the script's connection to us. A host that does not agree to that soon loses the whole connection: nothing
// else ends the wait for it.
func (c *channel) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.late == nil && !c.over {
		c.late = time.AfterFunc(killWait, func() { _ = c.client.Close() })
		_ = c.Close()
	}
}

// ended is called when the host has agreed.
func (c *channel) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.late != nil {
		c.late.Stop()
	}
	_ = c.Close()
}

// Run runs a script to its end.
func (s *libSession) Run(ctx context.Context, script string, stdin io.Reader) (stdout, stderr []byte, err error) {
	c, err := s.channel()
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, c.kill)
	out, errs := &limited{most: mostOutput}, &limited{most: mostErrors}
	c.Stdin, c.Stdout, c.Stderr = stdin, out, errs
	err = c.Run(shell(script))
	stop()
	c.ended()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), errs.Bytes(), err
}

// Start begins a script that is spoken with.
func (s *libSession) Start(ctx context.Context, script string) (*duplex, error) {
	c, err := s.channel()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*duplex, error) {
		c.ended()
		return nil, err
	}
	in, err := c.StdinPipe()
	if err != nil {
		return fail(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	errs := &limited{most: mostErrors}
	c.Stderr = errs
	if err := c.Start(shell(script)); err != nil {
		return fail(fmt.Errorf("start: %w", err))
	}
	stop := context.AfterFunc(ctx, c.kill)
	wait := func() error {
		err := c.Wait()
		stop()
		c.ended()
		return err
	}
	return &duplex{In: in, Out: out, Errors: errs, Wait: wait, Kill: c.kill}, nil
}

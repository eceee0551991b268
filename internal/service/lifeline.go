package service

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// LifelineFlag is the flag by which a child learns the descriptor of its lifeline.
const LifelineFlag = "lifeline"

// lifelineFD is the first descriptor after the standard ones.
const lifelineFD = 3

// Watch follows the lifeline of a child: it returns a context that ends when the keeper is gone. If the services
// should still run, a new keeper is started at that moment; the child's part is to end soon. finish gets a value
// when the child is to end by itself as soon as it can without breaking anything off, and is closed when it is to begin nothing
// new for that. A descriptor of zero means that no keeper runs this process, and returns ctx
// itself.
func Watch(ctx context.Context, o Options, fd int) (_ context.Context, finish <-chan struct{}, err error) {
	if fd == 0 {
		return ctx, nil, nil
	}
	if fd < lifelineFD {
		return nil, nil, fmt.Errorf("no lifeline on descriptor %d", fd)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "lifeline")
	if _, err := f.Stat(); err != nil {
		return nil, nil, fmt.Errorf("no lifeline on descriptor %d: %w", fd, err)
	}
	asked := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { // lives as long as the process, as the lifeline does
		defer cancel()
		for said := 0; ; said++ { // two bytes are ever written
			if n, _ := f.Read(make([]byte, 1)); n == 0 {
				break
			}
			if said == 0 {
				asked <- struct{}{}
			} else {
				close(asked)
			}
		}
		if _, err := os.Stat(o.run("desired")); err != nil {
			return
		}
		o.Log.Warn("keeper is gone; starting another")
		if _, err := Spawn(o); err != nil {
			o.Log.Error("cannot start a keeper", "err", err)
		}
	}()
	return ctx, asked, nil
}

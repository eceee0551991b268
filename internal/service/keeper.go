package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/durable"
)

// ErrRunning says that another keeper holds the home.
var ErrRunning = errors.New("another keeper runs")

const (
	firstBackoff = 200 * time.Millisecond
	mostBackoff  = 10 * time.Second
	healthyAfter = 30 * time.Second
	// waitFor is the longest pause between two starts of a child during which its connections wait. One that keeps dying is
	// not worth waiting for, but for the time that a command takes to put the version before back.
	waitFor = 2 * time.Second
)

// Spawn starts a keeper in a session of its own, its output in the keeper's log. It does not wait for it: the channel
// gets its end, should the caller live to see it.
func Spawn(o Options) (<-chan error, error) { return o.spawn(nil) }

func (o Options) spawn(held *socket) (<-chan error, error) {
	if err := o.makeDirs(); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(LogPath(o.Home, "keeper"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open keeper's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the keeper has its own descriptor
	cmd := &exec.Cmd{
		Path: o.Exe, Args: append([]string{o.Arg0}, o.KeepArgs...), Dir: o.Home, Env: append(os.Environ(), o.Env...),
		Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if held != nil {
		cmd.Args = append(cmd.Args, "--"+InheritFlag, strconv.Itoa(lifelineFD)+","+held.addr)
		cmd.ExtraFiles = []*os.File{held.file}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // outlives the caller on purpose: it only reaps
	return ended, nil
}

// keeper runs the children of one home.
type keeper struct {
	o    Options
	lock *durable.FileLock
	hand hand

	mu     sync.Mutex
	rec    record  // guarded by mu
	socket *socket // guarded by mu; nil while nothing listens
}

// Keep runs the children until ctx ends, the home is no longer desired, or the home is gone; then it ends them. It
// returns ErrRunning where another keeper holds the home.
func Keep(ctx context.Context, o Options) error {
	o.Version = o.versionOfCopy()
	if err := o.makeDirs(); err != nil {
		return err
	}
	if _, err := os.Stat(o.run("desired")); err != nil {
		return nil // stopped before it began
	}
	// A status that looks at the lock holds it for an instant, so one refusal says nothing.
	lockCtx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	l, err := durable.Lock(lockCtx, o.run("keeper.lock"))
	if err != nil {
		if lockCtx.Err() != nil {
			return ErrRunning
		}
		return err
	}
	defer l.Release()
	k := &keeper{o: o, lock: l, hand: hand{finish: make(chan struct{})}, socket: inherited(o.Inherit, o.Listen)}
	defer k.dropSocket()
	if err := k.takeOver(ctx); err != nil {
		return err
	}
	if !k.isWanted() {
		return remove(o.run("keeper.json"))
	}
	if o.Listen != "" {
		defer k.serveHand()()
	}
	k.runChildren(ctx)
	// What the children started and did not end themselves is still in this session.
	err = k.rec.Process.endSession(context.WithoutCancel(ctx), time.Second)
	return errors.Join(err, remove(o.run("keeper.json")), k.succeed())
}

// takeOver says who keeps the home now and ends what a keeper before left behind.
func (k *keeper) takeOver(ctx context.Context) error {
	old, err := k.o.readRecord()
	if err != nil {
		return err
	}
	k.rec = record{Process: self(), Version: k.o.Version, Settings: k.o.Settings, Exe: k.o.Exe, Since: time.Now().UTC()}
	for _, c := range k.o.Children {
		k.rec.Children = append(k.rec.Children, Proc{Name: c.Name, Since: k.rec.Since})
	}
	var left []*process
	if old != nil && old.Process.PID != k.rec.Process.PID {
		left = append(left, &old.Process)
		if old.Former != nil {
			left = append(left, old.Former)
		}
		k.rec.Former = &old.Process
	}
	if err := k.o.writeRecord(&k.rec); err != nil {
		return err
	}
	for _, p := range left {
		k.o.Log.Info("ending what a former keeper left", "pid", p.PID)
		if err := p.endSession(ctx, k.o.grace()); err != nil {
			return err
		}
	}
	k.rec.Former = nil
	return k.o.writeRecord(&k.rec)
}

// isWanted says that the services should run and that this home is still the one that was locked.
func (k *keeper) isWanted() bool {
	_, err := os.Stat(k.o.run("desired"))
	return err == nil && k.lock.Holds()
}

func (k *keeper) runChildren(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan struct{})
	var wg sync.WaitGroup
	for i := range k.o.Children {
		wg.Go(func() {
			k.supervise(ctx, i)
			if k.o.Children[i].Listens {
				close(finished)
			}
		})
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for wanted := true; wanted; {
		select {
		case <-ctx.Done():
			wanted = false
		case <-finished:
			wanted = false
		case <-tick.C:
			if wanted = k.isWanted(); wanted {
				k.keepRecord()
			}
		}
	}
	k.dropSocket() // nobody is to wait for what does not come; a keeper that follows has its own
	cancel()
	wg.Wait()
}

// supervise runs one child again and again until ctx ends, or it has finished.
func (k *keeper) supervise(ctx context.Context, i int) {
	backoff := firstBackoff
	name := k.o.Children[i].Name
	var finish <-chan struct{} // never for others than the one that is let finish
	if k.o.Children[i].Listens {
		finish = k.hand.finish
	}
	for ctx.Err() == nil {
		started := time.Now()
		err := k.runOnce(ctx, i, finish)
		if ctx.Err() != nil || isClosed(finish) {
			return
		}
		if time.Since(started) > healthyAfter {
			backoff = firstBackoff
		}
		k.o.Log.Warn("child ended", "name", name, "exit", exitText(err), "again_in_ms", backoff.Milliseconds())
		k.note(i, func(p *Proc) { p.PID, p.LastExit, p.Restarts = 0, exitText(err), p.Restarts+1 })
		if k.o.Children[i].Listens && backoff > waitFor {
			k.dropSocket()
		}
		select {
		case <-ctx.Done():
		case <-finish:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, mostBackoff)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// runOnce starts a child and waits for its end; when ctx ends it is asked to go, then made to. When finish is closed it may
// finish first.
func (k *keeper) runOnce(ctx context.Context, i int, finish <-chan struct{}) error {
	child := k.o.Children[i]
	log, err := os.OpenFile(LogPath(k.o.Home, child.Name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	lifeline, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close() //nolint:errcheck // closing it is the message
	args := append(append([]string{k.o.Arg0}, child.Args...), "--"+LifelineFlag, strconv.Itoa(lifelineFD))
	files := []*os.File{lifeline}
	if child.Listens {
		if s := k.takeSocket(); s != nil {
			args = append(args, "--"+SocketFlag, strconv.Itoa(lifelineFD+1))
			files = append(files, s.file)
		}
	}
	cmd := &exec.Cmd{
		Path: k.o.Exe, Args: args, Dir: k.o.Home, Env: append(os.Environ(), k.o.Env...),
		Stdout: log, Stderr: log, ExtraFiles: files,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	err = cmd.Start()
	_ = lifeline.Close() // the child's copy is what counts
	if err != nil {
		return err
	}
	k.o.Log.Info("child started", "name", child.Name, "pid", cmd.Process.Pid)
	k.note(i, func(p *Proc) { p.PID, p.Since = cmd.Process.Pid, time.Now().UTC() })
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the child, and every path below waits for it
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = k.end(cmd.Process, ended)
	case <-finish:
		err = k.finish(ctx, ours, cmd.Process, ended)
	}
	killGroup(cmd.Process.Pid)
	return err
}

// finish lets a child finish what is open with it, for as long as the hand allows. In the second half of that time it begins
// nothing new.
func (k *keeper) finish(ctx context.Context, lifeline *os.File, p *os.Process, ended <-chan error) error {
	for _, most := range []time.Duration{k.hand.most / 2, k.hand.most - k.hand.most/2} {
		_, _ = lifeline.Write([]byte{1}) // it may have ended by itself
		limit, cancel := context.WithTimeout(ctx, most)
		select {
		case err := <-ended:
			cancel()
			return err
		case <-limit.Done():
			cancel()
		}
	}
	return k.end(p, ended)
}

func (k *keeper) end(p *os.Process, ended <-chan error) error {
	_ = p.Signal(terminate) // it may have ended by itself
	select {
	case err := <-ended:
		return err
	case <-time.After(k.o.grace()):
	}
	killGroup(p.Pid)
	return <-ended
}

// keepRecord writes the record again where it is gone or damaged: without it nobody can tell who keeps the home.
func (k *keeper) keepRecord() {
	if rec, err := k.o.readRecord(); err == nil && rec != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.o.Log.Warn("the record was damaged and is written again")
	if err := k.o.writeRecord(&k.rec); err != nil {
		k.o.Log.Warn("cannot write record", "err", err)
	}
}

// note changes what is recorded of a child. A record that cannot be written harms nothing that runs.
func (k *keeper) note(i int, change func(*Proc)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.rec.Children[i])
	if err := k.o.writeRecord(&k.rec); err != nil {
		k.o.Log.Warn("cannot write record", "err", err)
	}
}

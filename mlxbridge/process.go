package mlxbridge

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// process is a worker process with its pipes. It leads a process group of its own, and cannot outlive this process: its
// standard input ends with us, and on Linux the kernel kills it as well, even when it is stopped.
type process struct {
	cmd      *exec.Cmd
	frames   *os.File // to the worker
	answers  *os.File // from the worker
	logs     *os.File // its standard output and standard error
	lifeline *os.File // its standard input
	exited   chan struct{}

	mu     sync.Mutex
	reaped bool
}

// startProcess starts cmd with its pipes. The caller closes the process when it has exited.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	pipe := func(ours **os.File, weWrite bool) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if weWrite {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
		return w, nil
	}
	ends := make([]*os.File, 4)
	for i, want := range []struct {
		ours    **os.File
		weWrite bool
	}{{&p.lifeline, true}, {&p.logs, false}, {&p.frames, true}, {&p.answers, false}} {
		end, err := pipe(want.ours, want.weWrite)
		if err != nil {
			p.closePipes()
			return nil, fmt.Errorf("make pipe: %w", err)
		}
		ends[i] = end
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0], ends[1], ends[1]
	cmd.ExtraFiles = []*os.File{ends[2], ends[3]}
	cmd.SysProcAttr = processAttributes()
	started := make(chan error, 1) // buffered: the goroutine goes on without us
	go p.run(started)
	if err := <-started; err != nil {
		p.closePipes()
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// run starts the process and reaps it, on one thread: on Linux the process is killed when that thread ends.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	ended := awaitExit(p.cmd.Process.Pid)
	if ended {
		p.signal(syscall.SIGKILL) // what it may have started: it leads its group until it is reaped
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	_ = p.cmd.Wait() // the state says how it ended
	if !ended {
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	p.reaped = true
	close(p.exited)
}

// signal reaches the whole process group, as long as its leader has not been reaped.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may be gone by now; exited tells
	}
}

// ending says in words how the process ended. Only after exited is closed.
func (p *process) ending() string {
	state := p.cmd.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%s)", status.Signal(), status.Signal())
	}
	if state.ExitCode() == exitOutOfMemory {
		return "ran out of memory"
	}
	return fmt.Sprintf("ended with exit code %d", state.ExitCode())
}

// wasKilled says whether somebody ended the process by a signal. Signals of a process that does what it must not do are
// its own fault. Only after exited is closed.
func (p *process) wasKilled() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return false
	}
	switch status.Signal() {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		return true
	default:
		return false
	}
}

// exhausted says whether the process ended because it had no memory left. Only after exited is closed. What the system
// kills for that reason it kills as anybody could, so that does not count.
func (p *process) exhausted() bool { return p.cmd.ProcessState.ExitCode() == exitOutOfMemory }

// exitOutOfMemory is the worker's own word for it.
const exitOutOfMemory = 71

func (p *process) closePipes() {
	for _, f := range []*os.File{p.frames, p.answers, p.logs, p.lifeline} {
		if f != nil {
			_ = f.Close()
		}
	}
}

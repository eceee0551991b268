package durable_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// roleVar makes this binary another process of a test: the role is the first of its arguments.
const roleVar = "DURABLE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := roles()[role](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// other is a process of this binary in a role. It ends at the end of its standard input at the latest.
type other struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
	err *strings.Builder
}

func start(t *testing.T, role string, args ...string) *other {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := &other{t: t, cmd: exec.Command(exe, args...), err: &strings.Builder{}}
	o.cmd.Env = append(os.Environ(), roleVar+"="+role)
	o.cmd.Stderr = o.err
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.out = bufio.NewReader(out)
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.kill)
	return o
}

// says waits for the next line.
func (o *other) says() string {
	o.t.Helper()
	line, err := o.out.ReadString('\n')
	if err != nil {
		o.t.Fatalf("the other process said %q, then %v; %s", line, err, o.err)
	}
	return strings.TrimSuffix(line, "\n")
}

// kill ends it in the midst of what it does.
func (o *other) kill() {
	if o.cmd.ProcessState == nil {
		_ = o.cmd.Process.Kill()
		_ = o.cmd.Wait()
	}
}

// wait has it end by itself.
func (o *other) wait() error {
	_ = o.in.Close()
	if err := o.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, o.err)
	}
	return nil
}

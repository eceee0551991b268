package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/freeport"
)

// greet is a child that listens: to each line it says its version, at once or, to "slow", after a while. When it is to
// finish it takes no more connections and ends with the last one.
func greet(ctx context.Context, finish <-chan struct{}, l net.Listener) {
	var open sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	go func() {
		<-finish
		_ = l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		open.Go(func() {
			defer c.Close() // the other side tells
			line, _ := bufio.NewReader(c).ReadString('\n')
			if line == "slow\n" {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
			_, _ = fmt.Fprintln(c, os.Getenv("SERVICE_TEST_VERSION"))
		})
	}
	open.Wait()
}

// greeted asks the service of a home and returns the version that answered.
func greeted(addr, line string) (string, error) {
	c, err := asked(addr, line)
	if err != nil {
		return "", err
	}
	defer c.Close() // everything was read
	return answerOf(c)
}

// asked is a connection on which a question was sent.
func asked(addr, line string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: patience}).Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.SetDeadline(time.Now().Add(patience)), write(c, line)); err != nil {
		_ = c.Close() // nothing was said
		return nil, err
	}
	return c, nil
}

func answerOf(c net.Conn) (string, error) {
	text, err := io.ReadAll(c)
	if err == nil && len(text) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSpace(string(text)), err
}

func write(w io.Writer, line string) error {
	_, err := io.WriteString(w, line+"\n")
	return err
}

// newGreeter prepares a home whose first child listens.
func newGreeter(t *testing.T) Options {
	t.Helper()
	t.Setenv("SERVICE_TEST_LISTEN", freeport.Addr(t))
	o := newHome(t, "child")
	o.Finish = patience
	if _, err := Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it answers", func() bool { v, err := greeted(o.Listen, "now"); return v == "v1" && err == nil })
	return o
}

// keepAsking asks without end; stop returns who answered, and the first failure.
func keepAsking(addr string) (stop func() (map[string]int, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	by, failed := map[string]int{}, error(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				v, err := greeted(addr, "now")
				mu.Lock()
				by[v]++
				if failed == nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	return func() (map[string]int, error) {
		cancel()
		wg.Wait()
		return by, failed
	}
}

func TestReplacedWithoutLosingAConnection(t *testing.T) {
	o := newGreeter(t)
	stop := keepAsking(o.Listen)
	slow, err := asked(o.Listen, "slow") // before the others, so it is accepted before them
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close() // everything was read
	before, _ := Read(o)
	eventually(t, "some are answered", func() bool {
		v, err := greeted(o.Listen, "now")
		return v == "v1" && err == nil
	})
	t.Setenv("SERVICE_TEST_VERSION", "v2")
	o.Version = "v2"
	changed, err := Start(t.Context(), o)
	if err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	eventually(t, "the new one answers", func() bool {
		v, err := greeted(o.Listen, "now")
		return v == "v2" && err == nil
	})
	by, err := stop()
	if err != nil || by["v1"] == 0 || by["v2"] == 0 || len(by) != 2 {
		t.Errorf("answered by %v, %v", by, err)
	}
	if v, err := answerOf(slow); v != "v1" || err != nil {
		t.Errorf("what was open when the keeper was replaced: %q, %v", v, err)
	}
	gone(t, pids(before))
	if err := Stop(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := greeted(o.Listen, "now"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the stop: %v", err)
	}
	if _, err := os.Stat(o.run("keeper.sock")); err == nil {
		t.Error("keeper.sock is left")
	}
}

func TestConnectionsWaitForAChildThatDied(t *testing.T) {
	o := newGreeter(t)
	s, _ := Read(o)
	_ = syscall.Kill(s.Children[0].PID, kill)
	eventually(t, "it is gone", func() bool { _, ok := startOf(s.Children[0].PID); return !ok })
	if v, err := greeted(o.Listen, "now"); v != "v1" || err != nil {
		t.Errorf("answered %q, %v", v, err)
	}
}

func TestOtherAddressIsAnotherSocket(t *testing.T) {
	o := newGreeter(t)
	former := o.Listen
	o.Listen, o.Settings = freeport.Addr(t), "s2"
	t.Setenv("SERVICE_TEST_LISTEN", o.Listen)
	t.Setenv("SERVICE_TEST_SETTINGS", "s2")
	if changed, err := Start(t.Context(), o); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	eventually(t, "it answers there", func() bool {
		v, err := greeted(o.Listen, "now")
		return v == "v1" && err == nil
	})
	if _, err := greeted(former, "now"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("at the former address: %v", err)
	}
}

// What does not finish in time is ended, and the new keeper comes up all the same.
func TestFinishIsBounded(t *testing.T) {
	o := newGreeter(t)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", o.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // it says nothing
	eventually(t, "it is taken", func() bool { v, err := greeted(o.Listen, "now"); return v == "v1" && err == nil })
	o.Version, o.Finish = "v2", 100*time.Millisecond
	t.Setenv("SERVICE_TEST_VERSION", "v2")
	if changed, err := Start(t.Context(), o); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	eventually(t, "the new one answers", func() bool { v, err := greeted(o.Listen, "now"); return v == "v2" && err == nil })
}

// A command that is interrupted while it waits for what is open does not wait any more, and leaves services behind.
func TestInterruptedReplacement(t *testing.T) {
	o := newGreeter(t)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", o.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // it says nothing, and so is never finished with
	eventually(t, "it is taken", func() bool { v, err := greeted(o.Listen, "now"); return v == "v1" && err == nil })
	o.Version, o.Finish = "v2", time.Hour
	t.Setenv("SERVICE_TEST_VERSION", "v2")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		handing := func() bool {
			log, err := os.ReadFile(LogPath(o.Home, "keeper"))
			return err == nil && strings.Contains(string(log), "ending for another keeper")
		}
		if !waitUntil(ctx, patience, handing) && ctx.Err() == nil {
			t.Error("the keeper does not hand over")
		}
		interrupt()
	}()
	if changed, err := Start(ctx, o); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if v, err := greeted(o.Listen, "now"); v != "v2" || err != nil {
		t.Errorf("answered %q, %v", v, err)
	}
}

// A command that is killed while it waits leaves services behind as well: the keeper that finishes sees to it.
func TestKilledReplacement(t *testing.T) {
	o := newGreeter(t)
	before, _ := Read(o)
	o.Finish = time.Minute
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", o.run("keeper.sock"))
	if err != nil {
		t.Fatal(err)
	}
	held, err := o.askHand(conn)
	if err != nil || held == nil {
		t.Fatalf("%v, %v", held, err)
	}
	held.close()
	_ = conn.Close()
	eventually(t, "another keeper runs", func() bool {
		s, err := Read(o)
		return err == nil && s.Running && s.Keeper.PID != before.Keeper.PID
	})
	eventually(t, "it answers", func() bool { v, err := greeted(o.Listen, "now"); return v == "v1" && err == nil })
}

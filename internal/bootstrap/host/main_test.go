package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/service"
)

// The test binary, copied into folders of versions, is the program that is installed: its first argument says which part.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(program(os.Args[1], os.Args[2:]))
	}
	// Standard input of a host's side is read for as long as somebody holds the other end.
	goleak.VerifyTestMain(m)
}

func program(part string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	home := os.Getenv("MLXCTL_HOME")
	var err error
	switch part {
	case "agent":
		err = fakeAgent(ctx, home, args)
	case "keep":
		err = service.Keep(ctx, unit.KeeperOptions(home, slog.New(slog.NewTextHandler(os.Stderr, nil))))
		if errors.Is(err, service.ErrRunning) {
			err = nil
		}
	case "host":
		signal.Ignore(syscall.SIGPIPE)
		o := options(os.Args[0], args[0])
		if n, err := strconv.Atoi(args[1]); err == nil {
			o.at = func(string) {
				if n--; n == 0 {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {} // it is on its way
				}
			}
		}
		o.In, o.Out = os.Stdin, os.Stdout
		err = Serve(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeAgent does of an agent what an installation can see. What it is called says how it fares.
func fakeAgent(ctx context.Context, home string, args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	id := filepath.Base(filepath.Dir(exe))
	version := id[:len(id)-idDigits-1]
	if version == "crash" {
		return errors.New("boom: \x1b[31mno such thing")
	}
	if len(args) == 2 && args[0] == "--"+service.LifelineFlag {
		fd, _ := strconv.Atoi(args[1])
		if ctx, _, err = service.Watch(ctx, unit.KeeperOptions(home, slog.New(slog.DiscardHandler)), fd); err != nil {
			return err
		}
	}
	if undone, err := Recover(home); undone || err != nil {
		return fmt.Errorf("undone: %w", err)
	}
	var settings plan.Settings
	data, err := os.ReadFile(filepath.Join(home, "node.json"))
	if err == nil {
		err = json.Unmarshal(data, &settings)
	}
	if err != nil {
		return err
	}
	node, err := nodeOf(home)
	if err != nil {
		return err
	}
	if _, err := os.Stderr.WriteString("here is " + version + "\n"); err != nil {
		return err
	}
	l := plan.Link{State: plan.LinkConnected, Node: node, PID: os.Getpid(), Version: version, At: time.Now()}
	switch {
	case version == "mute":
		l.State, l.Error = plan.LinkConnecting, "cannot reach the bus"
	case version == "refused":
		l.State, l.Error = plan.LinkRefused, "who are you?"
	case version == "denied" && settings.ReverseAddr == "":
		l.State = plan.LinkDenied
	case version == "denied":
		l.State = plan.LinkConnecting
	}
	if data, err = json.Marshal(l); err == nil {
		err = restore(filepath.Join(home, "run", "link.json"), data)
	}
	if err != nil {
		return err
	}
	return Watch(ctx, home)
}

// nodeOf is the node that a home has the identity of.
func nodeOf(home string) (cluster.NodeID, error) {
	var identity struct{ ID cluster.NodeID }
	data, err := os.ReadFile(filepath.Join(home, "agent", "node.json"))
	if err == nil {
		err = json.Unmarshal(data, &identity)
	}
	return identity.ID, err
}

// options are those of the host's side in tests: everything but what other packages do.
func options(exe, services string) Options {
	return Options{
		Exe: exe, Unit: unit.Spec{ServiceDir: services},
		Identity: func(_ context.Context, home string) (Identity, error) {
			path := filepath.Join(home, "agent", "node.json")
			data, err := readFile(path)
			if data == nil && err == nil {
				err = restore(path, []byte(`{"id": "node-of-tests"}`))
			}
			if err != nil {
				return Identity{}, err
			}
			node, err := nodeOf(home)
			return Identity{Node: node, Key: "UKEY", Hardware: "hash"}, err
		},
		Join: func(_ context.Context, home, jwt string) error {
			return restore(filepath.Join(home, "agent", "node.creds"), []byte("-----BEGIN NATS USER JWT-----\n"+jwt+"\n------END NATS USER JWT------\n"))
		},
		Python: func(context.Context, PythonRequest) (bool, error) { return false, nil },
	}
}

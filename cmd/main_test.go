package cmd

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/service"
)

// asBinary makes the test binary behave as mlxctl: services and commands of tests are real processes.
const asBinary = "MLXCTL_TEST_AS_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(asBinary) != "" {
		version, broken := markOf()
		if len(os.Args) > 1 && os.Args[1] == broken {
			fail(broken)
		}
		os.Exit(Main(Build{Version: version, Commit: "0123456789abcdef"}))
	}
	// The terminal at which nobody types is read for ever; a real one ends with its process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/mlxctl/mlxctl/cmd.endless.Read"))
}

// fail is what a broken version of a service does: it ends at once. The fourth time it does so only when its keeper is replaced,
// so that however slow the one who replaces it is, the pauses between its starts stay short.
func fail(name string) {
	if name != "keep" && starts(name) > mostEnds {
		_, _ = os.NewFile(3, service.LifelineFlag).Read(make([]byte, 1)) // a keeper writes to it, or is gone
	}
	_, _ = os.Stderr.WriteString("no such library\n")
	os.Exit(1)
}

// starts counts how often it was called in a home for a name.
func starts(name string) int64 {
	f, err := os.OpenFile(filepath.Join(os.Getenv("MLXCTL_HOME"), "run", name+".starts"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0
	}
	defer f.Close()
	_, _ = f.WriteString(".")
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

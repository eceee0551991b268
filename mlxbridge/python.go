package mlxbridge

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// The Pythons that the packages were locked for.
const (
	oldestMinor, newestMinor = 11, 13
	probeWait                = 20 * time.Second
)

// interpreter is a Python that was found on this machine.
type interpreter struct {
	Path    string `json:"-"`
	Version string `json:"version"` // "3.12.1"
	Minor   int    `json:"minor"`
	Machine string `json:"machine"`
	HasVenv bool   `json:"has_venv"`
}

// probe prints what an interpreter is.
const probe = `import importlib.util as u, json, platform, sys
print(json.dumps({"version": platform.python_version(), "minor": sys.version_info[1] if sys.version_info[0] == 3 else 0,
"machine": platform.machine(), "has_venv": all(u.find_spec(m) for m in ("venv", "ensurepip"))}))`

// findPython returns the best of some Pythons: the newest that the packages were locked for; one that can make
// environments by itself comes before one that cannot.
func findPython(ctx context.Context, candidates []string) (interpreter, error) {
	var fallback *interpreter
	var seen []string
	for _, path := range candidates {
		found, err := probePython(ctx, path)
		if ctx.Err() != nil {
			return interpreter{}, contextError(ctx)
		}
		if err != nil {
			continue // a shim of a version that is not installed, or no Python at all
		}
		if found.Minor < oldestMinor || found.Minor > newestMinor || !isNative(found.Machine) {
			seen = append(seen, fmt.Sprintf("%s is %s on %s", path, found.Version, found.Machine))
			continue
		}
		if found.HasVenv || findUV() != "" {
			return found, nil
		}
		if fallback == nil {
			fallback = &found
		}
	}
	if fallback != nil {
		return *fallback, nil
	}
	message := fmt.Sprintf("no Python 3.%d to 3.%d on this machine", oldestMinor, newestMinor)
	if len(seen) > 0 {
		message += " (" + strings.Join(seen, ", ") + ")"
	}
	return interpreter{}, cluster.Errorf(cluster.CodeInternal, "%s", message).WithHint("%s", pythonHint())
}

func pythonHint() string {
	if runtime.GOOS == "darwin" {
		return "brew install python@3.12, or set MLXCTL_PYTHON to an interpreter that has mlx-lm"
	}
	return "apt-get install python3 python3-venv, or set MLXCTL_PYTHON to an interpreter that has mlx-lm"
}

// isNative refuses an Intel Python on Apple silicon: there is no MLX for it.
func isNative(machine string) bool { return runtime.GOOS != "darwin" || machine == "arm64" }

func probePython(ctx context.Context, path string) (interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	env := mergeEnv(nil, nil, "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
	out, err := runQuietly(ctx, env, nil, path, "-I", "-c", probe)
	if err != nil {
		return interpreter{}, err
	}
	found := interpreter{Path: path}
	if err := json.Unmarshal([]byte(lastLine(out, "")), &found); err != nil {
		return interpreter{}, err
	}
	return found, nil
}

// pythonCandidates lists interpreters, best first. A service has a short PATH, so the usual places are looked at, too.
func pythonCandidates() []string {
	var out []string
	for minor := newestMinor; minor >= oldestMinor; minor-- {
		out = append(out, lookUpAll(fmt.Sprintf("python3.%d", minor))...)
	}
	return append(out, lookUpAll("python3")...)
}

// findUV returns the path of uv, or "".
func findUV() string {
	if all := lookUpAll("uv"); len(all) > 0 {
		return all[0]
	}
	return ""
}

func lookUpAll(name string) []string {
	var out []string
	for _, dir := range searchPath() {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 || isStub(path) {
			continue
		}
		out = append(out, path)
	}
	return out
}

func searchPath() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".local", "bin"))
	}
	dirs = append(dirs, "/opt/homebrew/bin", "/usr/local/bin", "/usr/bin")
	if runtime.GOOS == "darwin" {
		frameworks, _ := filepath.Glob("/Library/Frameworks/Python.framework/Versions/3.*/bin")
		dirs = append(dirs, frameworks...)
	}
	seen := map[string]bool{}
	var out []string
	for _, dir := range dirs {
		if filepath.IsAbs(dir) && !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	return out
}

// isStub is true for macOS's own python3 as long as the command line tools are not installed: running it would open a
// window that asks for them.
func isStub(path string) bool {
	if runtime.GOOS != "darwin" || !strings.HasPrefix(path, "/usr/bin/") {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeWait)
	defer cancel()
	return exec.CommandContext(ctx, "/usr/bin/xcode-select", "-p").Run() != nil
}

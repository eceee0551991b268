package bootstrap_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestBinaryFor(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	if got, err := bootstrap.BinaryFor(runtime.GOOS, runtime.GOARCH, "1.0", "/self", cache); err != nil || got != "/self" {
		t.Errorf("own platform: %q, %v", got, err)
	}
	path := filepath.Join(cache, "binaries", "1.0", "mlxctl_plan9_mips")
	_, err := bootstrap.BinaryFor("plan9", "mips", "1.0", "/self", cache)
	if cluster.CodeOf(err) != cluster.CodeUnsupported {
		t.Fatalf("error is %v", err)
	}
	has(t, cluster.AsError(err).Hint, path)
	write(t, path, []byte("x"))
	if got, err := bootstrap.BinaryFor("plan9", "mips", "1.0", "/self", cache); err != nil || got != path {
		t.Errorf("other platform: %q, %v", got, err)
	}
	if id, err := bootstrap.VersionID("v1.0 dirty/x", path); err != nil || id != "v1.0_dirty_x-"+hashOf([]byte("x"))[:12] {
		t.Errorf("version is %q, %v", id, err)
	}
}

const conditions = `# a list
both==1 ; platform_machine == 'arm64' and sys_platform == 'darwin' or (platform_machine == 'aarch64' or platform_machine == 'x86_64') and sys_platform == 'linux' \
    --hash=sha256:b
mac==1 ; platform_machine == 'arm64' and sys_platform == 'darwin' \
    --hash=sha256:m
old==1 ; python_full_version < '3.12' and ((platform_machine == 'arm64' and sys_platform == 'darwin') or (sys_platform == 'linux')) \
    --hash=sha256:o
new==1 ; python_full_version >= '3.12' \
    --hash=sha256:n
any==1 \
    --hash=sha256:a
`

func TestListOfPackagesForAnotherPlatform(t *testing.T) {
	t.Parallel()
	for platform, want := range map[string]string{
		"darwin arm64 3.12": "both mac new any", "darwin arm64 3.11": "both mac old any", "linux amd64 3.9": "both old any", "linux arm64 3.13": "both new any",
	} {
		p := strings.Fields(platform)
		list, err := bootstrap.LockFor(bootstrap.WheelsFor{Lock: conditions, OS: p[0], Arch: p[1], Python: p[2]})
		if err != nil {
			t.Fatal(err)
		}
		var want2 strings.Builder
		for name := range strings.FieldsSeq(want) {
			fmt.Fprintf(&want2, "%s==1 \\\n    --hash=sha256:%s\n", name, name[:1])
		}
		if list != want2.String() {
			t.Errorf("%s: %q, want %q", platform, list, want2.String())
		}
	}
	for _, bad := range []string{"os_name == 'x'", "sys_platform ~ 'x'", "(sys_platform == 'x'", "sys_platform == 'x' sys_platform", "$"} {
		if _, err := bootstrap.LockFor(bootstrap.WheelsFor{Lock: "a==1 ; " + bad + "\n", OS: "linux", Arch: "amd64", Python: "3.12"}); err == nil {
			t.Errorf("%q gave no error", bad)
		}
	}
}

// makeWheel makes a package for a platform, and the line that asks for it.
func makeWheel(tb testing.TB, dir, name, tag string) (line string) {
	tb.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for path, text := range map[string]string{
		name + ".py": "", name + "-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n",
		name + "-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: " + tag + "\n", name + "-1.0.dist-info/RECORD": "",
	} {
		w, err := z.Create(path)
		if err != nil {
			tb.Fatal(err)
		}
		_, _ = w.Write([]byte(text))
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	write(tb, filepath.Join(dir, name+"-1.0-"+tag+".whl"), out.Bytes())
	return name + "==1.0 \\\n    --hash=sha256:" + hashOf(out.Bytes()) + "\n"
}

func TestWheelhouse(t *testing.T) {
	interpreter, err := exec.LookPath("python3")
	if err == nil {
		err = exec.Command(interpreter, "-m", "pip", "--version").Run()
	}
	if err != nil {
		t.Skipf("needs python3 with pip: %v", err)
	}
	index, cache := t.TempDir(), t.TempDir()
	t.Setenv("PIP_NO_INDEX", "1")
	t.Setenv("PIP_FIND_LINKS", index)
	lock := makeWheel(t, index, "everywhere", "py3-none-any") + makeWheel(t, index, "native", "cp312-cp312-macosx_12_0_arm64")
	w := bootstrap.WheelsFor{Lock: lock, OS: "darwin", Arch: "arm64", Python: "3.12", Interpreter: interpreter}
	dir, files, err := bootstrap.Wheelhouse(t.Context(), cache, w)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || !strings.HasPrefix(dir, filepath.Join(cache, "wheels")) {
		t.Fatalf("files in %s are %+v", dir, files)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil || int64(len(data)) != f.Bytes || hashOf(data) != f.SHA256 {
			t.Errorf("%+v is not what is there: %v", f, err)
		}
	}
	w.Interpreter = "/nonexistent"
	if again, same, err := bootstrap.Wheelhouse(t.Context(), cache, w); err != nil || again != dir || len(same) != 2 {
		t.Errorf("the second time: %s %+v, %v", again, same, err)
	}
	if err := os.WriteFile(filepath.Join(dir, files[0].Name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := bootstrap.Wheelhouse(t.Context(), cache, w); err == nil {
		t.Error("a damaged folder was taken for whole")
	}
	w.Interpreter, w.OS, w.Arch = interpreter, "linux", "amd64"
	if _, _, err := bootstrap.Wheelhouse(t.Context(), cache, w); err == nil || cluster.AsError(err).Hint == "" {
		t.Errorf("a package that is not there for the platform gave %v", err)
	}
}

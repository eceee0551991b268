package mlxbridge

import (
	"debug/elf"
	"path/filepath"
	"runtime"
	"strings"
)

const openBLAS = "libopenblas.so.0"

// blasFolders are where distributions keep libraries; some have one folder for each build of OpenBLAS.
func blasFolders() []string {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return []string{filepath.Join("/usr/lib", triplet), "/usr/lib64", "/usr/lib", "/usr/local/lib"}
}

// fastBLAS returns the OpenBLAS of the distribution, or "". MLX's wheel for the CPU brings the reference BLAS, which
// multiplies fifty times slower; a library that is preloaded takes its place.
func fastBLAS(folders []string) string {
	for _, folder := range folders {
		builds, _ := filepath.Glob(filepath.Join(folder, "openblas-*", openBLAS)) // the pattern is a good one
		for _, file := range append([]string{filepath.Join(folder, openBLAS)}, builds...) {
			if isForThisMachine(file) {
				return file
			}
		}
	}
	return ""
}

// isForThisMachine refuses what the loader would refuse, with a complaint at every start.
func isForThisMachine(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return f.Machine == map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
}

// withFastBLAS adds the distribution's OpenBLAS, where it is there, to what a worker preloads. Whoever preloads a BLAS
// already has made the choice.
func withFastBLAS(env []string, folders []string) []string {
	const name = "LD_PRELOAD"
	preloaded := ""
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			preloaded = value
		}
	}
	library := fastBLAS(folders)
	if library == "" || strings.Contains(preloaded, "blas") {
		return env
	}
	if preloaded != "" {
		library += ":" + preloaded
	}
	return mergeEnv(env, map[string]string{name: library})
}

package hwmon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func newSource() source {
	return &macos{text: unix.Sysctl, number: sysctlNumber, run: runTool}
}

// sysctlNumber reads a number of 8 bytes, or of 4: the kernel has both.
func sysctlNumber(name string) (uint64, error) {
	if n, err := unix.SysctlUint64(name); err == nil {
		return n, nil
	}
	n, err := unix.SysctlUint32(name)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return uint64(n), nil
}

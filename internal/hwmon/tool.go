package hwmon

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// toolTimeout bounds one run of a tool; ioreg and its kin answer in milliseconds, iostat in a second.
const toolTimeout = 3 * time.Second

// runTool runs a tool to its end and returns what it printed.
func runTool(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	return out, nil
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
)

// Exit codes. They are chosen here and nowhere else.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartial     = 3
	exitAuth        = 4
	exitCapacity    = 5
	exitNoSuch      = 6
	exitUnreachable = 7
	exitSignal      = 128 // plus the signal's number
)

// exitMeanings is the table that help and documentation show.
func exitMeanings() [][2]string {
	return [][2]string{
		{"0", "done, or nothing to do"},
		{"1", "failed"},
		{"2", "usage: a wrong flag, argument or setting, or a request that cannot be right"},
		{"3", "partly done: some nodes failed"},
		{"4", "not allowed: authentication failed"},
		{"5", "no capacity: nothing could take it, now or at all"},
		{"6", "no such model, node, context or token"},
		{"7", "the cluster cannot be reached, or a time limit passed"},
		{"130", "interrupted (SIGINT)"},
		{"143", "terminated (SIGTERM)"},
	}
}

// usageError is a command line that cannot be right.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// usageHint is a usage error that says what would be right.
func usageHint(hint, format string, args ...any) error {
	return &usageError{cluster.Errorf(cluster.CodeInvalid, format, args...).WithHint("%s", hint)}
}

// noSuchError is a name that nothing has.
type noSuchError struct{ err *cluster.Error }

func (e *noSuchError) Error() string { return e.err.Error() }
func (e *noSuchError) Unwrap() error { return e.err }

// partialError is what some nodes did and some did not.
type partialError struct{ err *cluster.Error }

func (e *partialError) Error() string { return e.err.Error() }
func (e *partialError) Unwrap() error { return e.err }

// hostsError is what machines were to do and did not.
type hostsError struct {
	code int
	err  *cluster.Error
}

func (e *hostsError) Error() string { return e.err.Error() }
func (e *hostsError) Unwrap() error { return e.err }

// signalError says which signal ended a command.
type signalError struct{ signal syscall.Signal }

func (e signalError) Error() string {
	if e.signal == syscall.SIGINT {
		return "interrupted"
	}
	return "terminated"
}

// silentError has been told to the user already; only its exit code is left to give.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// exitCode maps the end of a command to its exit code.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if signal, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
		return exitSignal + int(signal.signal)
	}
	var (
		usage     *usageError
		noSuch    *noSuchError
		noContext *config.NoContextError
		partial   *partialError
		hosts     *hostsError
		silent    silentError
	)
	switch {
	case errors.As(err, &partial):
		return exitPartial
	case errors.As(err, &hosts):
		return hosts.code
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &noSuch), errors.As(err, &noContext):
		return exitNoSuch
	}
	return exitOfCode(cluster.CodeOf(err))
}

func exitOfCode(code cluster.Code) int {
	switch code {
	case cluster.CodeInvalid, cluster.CodeContext, cluster.CodeTooLarge, cluster.CodeBadModel:
		return exitUsage
	case cluster.CodeUnauthorized:
		return exitAuth
	case cluster.CodeNoFit, cluster.CodeBusy, cluster.CodeNoNode, cluster.CodeQuarantined:
		return exitCapacity
	case cluster.CodeNoModel:
		return exitNoSuch
	case cluster.CodeUnreachable, cluster.CodeTimeout:
		return exitUnreachable
	case cluster.CodeNodeLost, cluster.CodeWorkerCrashed, cluster.CodeCancelled, cluster.CodeUnsupported, cluster.CodeConflict,
		cluster.CodeInternal:
		return exitFailed
	}
	return exitFailed
}

// exitText is the table as help shows it; only the codes that are named, all when none is.
func exitText(codes ...string) string {
	var b strings.Builder
	for _, m := range exitMeanings() {
		if len(codes) == 0 || slices.Contains(codes, m[0]) {
			fmt.Fprintf(&b, "  %-4s %s\n", m[0], m[1])
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

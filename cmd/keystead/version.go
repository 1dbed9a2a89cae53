package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
)

// commit is what the program was built from: 40 hex digits, with "-dirty" where the
// checkout was changed. The Makefile sets it; without a checkout it is empty.
var commit string

// build says which program this is.
type build struct {
	Version  string          `json:"version"` // of the module, or devel
	Commit   string          `json:"commit"`  // or unknown
	Digest   keystead.Digest `json:"digest"`  // of the running program's file
	Go       string          `json:"go"`
	Platform string          `json:"platform"`
}

// thisBuild reads the running program's own file once: by the kernel's link to it, so
// that another file under its name, as after an upgrade, is not taken for it.
var thisBuild = sync.OnceValues(func() (build, error) { return buildOf("/proc/self/exe") })

func buildOf(program string) (build, error) {
	b := build{"devel", "unknown", keystead.Digest{}, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if commit != "" {
		b.Commit = commit
	}
	f, err := os.Open(program)
	if err != nil {
		return b, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return b, err
	}
	b.Digest = keystead.Digest(h.Sum(nil))
	return b, nil
}

// String names the program in nodes' status, in archived evidence and in metrics: two
// builds that may judge differently have different names.
func (b build) String() string { return b.Version + " " + b.Commit + " " + b.Digest.String() }

func (b build) print(w io.Writer) {
	fmt.Fprintf(w, "keystead %s %s %s\ncommit: %s\ndigest: %s\n", b.Version, b.Go, b.Platform, b.Commit, b.Digest)
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version, commit and digest",
		Long: `Prints the version of the program, of Go, and the platform; the commit that it was built
from; and the SHA-256 of the running program's file, by which code sets name it.
Verdicts are the same bytes for the same build. keystead --version prints the same.`,
		Example: `  keystead version --json`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.answerVersion() },
	}
}

func (a *app) answerVersion() error {
	b, err := thisBuild()
	if err != nil {
		return err
	}
	return a.Answer(b, b.print)
}

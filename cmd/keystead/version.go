package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Long: `Prints the version of the program, of Go, and the platform.
Verdicts are the same bytes for the same build.`,
		Example: `  keystead version --json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return a.answer(v, func(w io.Writer) { fmt.Fprintf(w, "keystead %s %s %s\n", v.Version, v.Go, v.Platform) })
		},
	}
}

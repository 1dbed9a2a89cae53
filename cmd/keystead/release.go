package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/internal/cli"
)

func (a *app) keyRelease() *cobra.Command {
	var f socketFlags
	var version uint64
	var out, format string
	c := &cobra.Command{
		Use:   "release NAME",
		Short: "On a host: get an agreed key from this machine's agent",
		Long: `Asks the agent of this machine for a key, as any application does: this program is measured,
and the key's release policy decides by its path, digest and user. The key is written to
a new file that only its owner reads, or to standard output. Whoever may run this program
as that user gets the key: applications ask by themselves (package client, or
docs/spec/application.md).`,
		Example: `  keystead key release storage --out storage.key
  keystead key release storage --version 2 --format raw`,
		Args: cli.Arguments("NAME"),
	}
	f.add(c)
	c.Flags().Uint64Var(&version, "version", 0, "`VERSION` of the key (default: the newest)")
	c.Flags().StringVar(&out, "out", "", "new `FILE` for the key (default: standard output)")
	c.Flags().StringVar(&format, "format", "hex", "hex or raw")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if format != "hex" && format != "raw" {
			return cli.Misuse(fmt.Errorf("--format %s is neither hex nor raw", format), "")
		}
		to, ctx, done := f.open()
		defer done()
		k, err := to.Release(ctx, args[0], version)
		if err != nil {
			return err
		}
		defer k.Forget()
		secret := k.Bytes()
		if format == "hex" {
			secret = append(hex.AppendEncode(nil, secret), '\n')
		}
		answer := struct {
			Name    string `json:"name"`
			Version uint64 `json:"version"`
			HoldsMS int64  `json:"holds_ms"`
			Key     string `json:"key,omitempty"` // hex
			File    string `json:"file,omitempty"`
		}{Name: k.Name(), Version: k.Version(), HoldsMS: time.Until(k.Until()).Milliseconds(), File: out}
		if out != "" {
			if err := cli.CreateFile(out, secret, 0o600); err != nil {
				return err
			}
			return a.Answer(answer, func(w io.Writer) {
				fmt.Fprintf(w, "key:       %s version %d in %s\nholds:     %v\n", answer.Name, answer.Version, out, time.Duration(answer.HoldsMS)*time.Millisecond)
			})
		}
		answer.Key = hex.EncodeToString(k.Bytes())
		return a.Answer(answer, func(w io.Writer) { w.Write(secret) })
	}
	return c
}

// Package toycmd is the toy's presence on the command line: keystead toy greet, and what it adds to
// a noun that is there.
package toycmd

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/toy"
)

// Commands are those of the toy.
func Commands(a *cli.App) []cli.Placed {
	return []cli.Placed{{Command: a.Noun("toy", "Greetings", "The least system.", "  keystead toy greet ada", greet(a))}}
}

func greet(a *cli.App) *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use: "greet NAME", Short: "Be greeted by this machine's agent", Long: "Asks the agent of this machine for a greeting.", Example: "  keystead toy greet ada",
		Args: cli.Arguments("NAME"),
	}
	c.Flags().StringVar(&socket, "socket", "", "`PATH` of the agent's socket")
	cli.Must(c.MarkFlagRequired("socket"))
	c.RunE = func(c *cobra.Command, args []string) error {
		var out wrapperspb.StringValue
		if err := client.Local(socket).Call(c.Context(), toy.Greet, wrapperspb.String(args[0]), &out); err != nil {
			return err
		}
		return a.Answer(map[string]string{"greeting": out.GetValue()}, func(w io.Writer) { fmt.Fprintln(w, out.GetValue()) })
	}
	return c
}

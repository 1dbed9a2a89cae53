package main

import (
	"github.com/spf13/cobra"

	"github.com/keystead/keystead/internal/demo"
)

// demo: the main job on this machine.
func (a *app) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on this machine, narrated",
		Long: `Starts a software TPM, replays a recorded boot into it, and judges live quotes of it: one that
passes and five that must not. Needs swtpm; leaves nothing behind. The exit status is not 0 if any
step comes out otherwise than expected.`,
		Example: `  keystead demo`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return demo.Run(c.Context(), a.stdout)
		},
	}
}

package appcmd

import (
	"crypto/rand"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/internal/cli"
)

func issue(a *cli.App) *cobra.Command {
	var rootFile, rootKey, keyFile, out string
	var lasts time.Duration
	c := &cobra.Command{
		Use:   "issue NAME --root FILE --root-key FILE --key FILE --out FILE",
		Short: "Issue an application its certificate",
		Long: `Issues a certificate to an application's key. The key is that of the file or, where there is none,
a new one. NAME is words of a-z 0-9 . _ - parted by slashes. The certificate stands in every
program that is signed with it, and ends with it: sign the program anew in time.`,
		Example: `  keystead app issue billing --root root.pem --root-key root.key --key billing.key --out billing.pem`,
		Args:    cli.Arguments("NAME"),
	}
	c.Flags().StringVar(&rootFile, "root", "", "`FILE` with the root's certificate")
	c.Flags().StringVar(&rootKey, "root-key", "", "`FILE` with the root's private key")
	c.Flags().StringVar(&keyFile, "key", "", "`FILE` with the application's private key; made where there is none")
	c.Flags().StringVar(&out, "out", "", "new `FILE` for the certificate")
	c.Flags().DurationVar(&lasts, "for", issueFor, "how long it counts")
	for _, f := range []string{"root", "root-key", "key", "out"} {
		cli.Must(c.MarkFlagRequired(f))
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		v, err := validity(time.Now(), lasts)
		if err != nil {
			return err
		}
		if err := app.CheckName(args[0]); err != nil {
			return cli.Misuse(err, "")
		}
		ca, err := readCertificate(rootFile)
		if err != nil {
			return err
		}
		caKey, err := readKey(rootKey)
		if err != nil {
			return err
		}
		k, undo, err := keyOf(keyFile)
		if err != nil {
			return err
		}
		der, err := app.Issue(rand.Reader, ca, caKey, args[0], k.Public(), v)
		if err == nil {
			err = cli.CreateFile(out, encodeCertificate(der), 0o644)
		}
		if err != nil {
			return errors.Join(err, undo())
		}
		return answerCertificate(a, args[0], der, out, keyFile)
	}
	return c
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/keyring"
)

// released is the key that the bench has agreed on.
const released = "bench"

// releases has the nodes agree on a key, and the admitted hosts ask for it over and over, each
// over its own attested connection; it returns how many a second were handed out, with median
// and 99th percentile of their times.
func releases(ctx context.Context, d *domain, cl *client.Client, hosts []*synthetic, workers int, length time.Duration) (float64, [2]time.Duration, error) {
	fail := func(err error) (float64, [2]time.Duration, error) { return 0, [2]time.Duration{}, err }
	spec := keyring.Spec{Domain: d.digest, Name: released, Version: 1, Level: keyring.LevelNone, Policy: []byte("keystead-policy/1\nname any\nminimum-assurance test\nrules none\n")}
	text, err := spec.Text()
	if err != nil {
		return fail(err)
	}
	signed, err := d.member.Sign(text)
	if err != nil {
		return fail(err)
	}
	if _, err := cl.Specify(ctx, signed); err != nil {
		return fail(err)
	}
	if _, err := cl.AwaitKey(ctx, released, 1); err != nil {
		return fail(err)
	}
	took := make([][]time.Duration, workers)
	began := time.Now()
	err = all(workers, workers, func(w int) error {
		for i := w; time.Since(began) < length; i += workers {
			h := hosts[i%len(hosts)]
			start := time.Now()
			r, err := h.api.Release(ctx, &apiv1.ReleaseRequest{Host: h.name, Key: released})
			if errors.Is(err, keystead.ReasonLeaseExpired) {
				continue // nobody renews meanwhile
			}
			if err == nil && len(r.GetSecret()) != keyring.SecretSize {
				err = fmt.Errorf("a secret of %d bytes", len(r.GetSecret()))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", h.name, err)
			}
			took[w] = append(took[w], time.Since(start))
		}
		return nil
	})
	each := slices.Concat(took...)
	rate := float64(len(each)) / time.Since(began).Seconds()
	if err != nil || len(each) == 0 {
		return fail(errors.Join(err, ctx.Err()))
	}
	slices.Sort(each)
	return rate, [2]time.Duration{each[len(each)/2], each[len(each)*99/100]}, nil
}

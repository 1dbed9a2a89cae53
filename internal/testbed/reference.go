package testbed

import (
	"context"
	"errors"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// reference builds the reference set of what can be executed of the packages that
// a dpkg status lists, through the signed chain from the repositories as they are now.
func reference(ctx context.Context, status []byte) (*refval.Set, error) {
	names, err := deb.ParseStatus(status)
	if err != nil {
		return nil, err
	}
	built, err := fetch.Build(ctx, fetch.Options{Packages: names, Selection: refval.SelectExecutable, Fresh: true})
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, m := range built.Set.Header().Missing {
		problems = append(problems, keystead.Deny(m.Finding()))
	}
	return built.Set, errors.Join(problems...)
}

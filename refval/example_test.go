package refval_test

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

func Example() {
	content := keystead.Sum([]byte("the bytes of bash"))
	archive := refval.Repository{Origin: "Debian", Suite: "stable", Codename: "trixie", Release: keystead.Sum([]byte("InRelease")), Signers: []string{"05AB"}}
	bash := refval.Package{Name: "bash", Version: "5.2-1", Architecture: "amd64", Strength: refval.StrengthRepositoryRehash}

	b := refval.NewBuilder(refval.SelectAll)
	if err := b.Add(bash, []refval.Repository{archive}, []refval.File{{Path: "./bin/bash", Digest: content}}); err != nil {
		fmt.Println(err)
	}
	set, err := b.Set()
	if err != nil {
		fmt.Println(err)
	}
	src, known := set.Lookup(content)
	fmt.Println(known, src.Package, src.Version, src.Path, src.Strength)
	wanted, owned := set.Path("/bin/bash")
	fmt.Println(owned, wanted[0].Digest == content)
	// Output:
	// true bash 5.2-1 /usr/bin/bash repository-rehash
	// true true
}

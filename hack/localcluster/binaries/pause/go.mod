module github.com/findep/findep-operator/hack/localcluster/binaries/pause

go 1.26.0

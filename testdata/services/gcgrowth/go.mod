module gcgrowth

go 1.25

package hwmon

func newSource() source { return &procfs{root: "/"} }

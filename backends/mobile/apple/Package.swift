// swift-tools-version:5.9
// Add this folder to an app in Xcode: File > Add Package Dependencies > Add Local.
import PackageDescription

let package = Package(
    name: "NAME",
    platforms: [.iOS(.v13)],
    products: [.library(name: "NAME", targets: ["NAME"])],
    targets: [
        .binaryTarget(name: "CNAME", path: "NAME.xcframework"),
        .target(name: "NAME", dependencies: ["CNAME"], resources: [.copy("NAME.bin")]),
    ]
)

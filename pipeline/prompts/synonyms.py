"""What people write for the classes of common data sets: a caption says "a man on a bike", never "person, bicycle".

A teacher that is held to what captions name may not answer a class that a caption names by another word, so that a word
too few does harm, and a word too many hardly any.
"""

from __future__ import annotations

PLANES = ("aeroplane", "airplane", "plane", "jet", "aircraft", "jetliner", "airliner")
MOTORCYCLES = ("motorbike", "motorcycle", "moped", "motor scooter")
SOFAS = ("sofa", "couch", "loveseat")
SCREENS = ("tv", "television", "tv monitor", "tv set", "television set", "monitor", "computer screen")
TABLES = ("dining table", "table", "dinner table", "kitchen table")
PLANTS = ("potted plant", "plant", "houseplant", "plant pot", "flower pot")

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        "man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "lady", "guy", "gentleman", "adult", "human",
        "player", "rider", "skier", "surfer", "snowboarder", "skateboarder", "cyclist", "biker", "pedestrian", "batter",
        "pitcher", "catcher", "umpire", "student", "worker", "officer", "policeman", "soldier", "chef", "farmer",
        "driver", "couple", "crowd", "family", "bride", "groom",
    ),
    "aeroplane": PLANES, "airplane": PLANES,
    "bicycle": ("bike", "mountain bike"),
    "motorbike": MOTORCYCLES, "motorcycle": MOTORCYCLES,
    "sofa": SOFAS, "couch": SOFAS,
    "tvmonitor": SCREENS, "tv": SCREENS,
    "diningtable": TABLES, "dining table": TABLES,
    "pottedplant": PLANTS, "potted plant": PLANTS,
    "bird": (
        "duck", "goose", "geese", "seagull", "gull", "pigeon", "parrot", "owl", "eagle", "hawk", "penguin", "swan",
        "chicken", "rooster", "hen", "sparrow", "crow", "flamingo", "heron", "pelican", "peacock", "ostrich",
    ),
    "boat": ("ship", "sailboat", "canoe", "kayak", "yacht", "rowboat", "ferry", "raft", "vessel"),
    "car": ("sedan", "taxi", "cab", "suv", "van", "minivan", "jeep", "convertible", "race car"),
    "truck": ("lorry", "pickup"),
    "bus": ("double decker", "minibus"),
    "train": ("locomotive", "steam engine", "subway", "tram"),
    "cat": ("kitten", "kitty"),
    "dog": ("puppy", "pup", "poodle", "terrier", "retriever", "dachshund", "bulldog"),
    "cow": ("cattle", "bull", "calf", "ox", "oxen"),
    "horse": ("pony", "foal", "mare", "stallion", "colt"),
    "sheep": ("lamb", "ram", "ewe"),
    "bottle": ("beer bottle", "wine bottle"),
    "chair": ("armchair", "recliner", "stool"),
    "traffic light": ("stoplight", "stop light", "traffic signal"),
    "fire hydrant": ("hydrant",),
    "handbag": ("purse",),
    "backpack": ("rucksack",),
    "suitcase": ("luggage", "briefcase"),
    "sports ball": ("ball", "soccer ball", "tennis ball", "basketball", "football", "volleyball"),
    "baseball glove": ("mitt", "catcher's mitt"),
    "skis": ("ski",),
    "tennis racket": ("racket", "racquet", "tennis racquet"),
    "wine glass": ("wineglass", "glass of wine"),
    "cup": ("mug", "coffee cup", "teacup"),
    "donut": ("doughnut",),
    "hot dog": ("hotdog",),
    "remote": ("remote control", "wii remote", "wiimote"),
    "cell phone": ("cellphone", "phone", "mobile phone", "smartphone"),
    "laptop": ("laptop computer", "notebook computer"),
    "mouse": ("computer mouse",),
    "refrigerator": ("fridge",),
    "oven": ("stove",),
    "hair drier": ("hair dryer", "hairdryer", "blow dryer"),
    "teddy bear": ("teddy", "stuffed bear", "stuffed animal"),
}  # fmt: skip
"""Name of a class -> other words for it. A word that is a class of the same label space means that one alone."""
